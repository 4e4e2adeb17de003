"""What `guideway send` is given: lines, each an event, and parameters as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from guideway.producers.events.contents import check_begins, from_json
from guideway.schemas.failures import FailureCode, Refusal


def lines(text: str | None, file: Path | None) -> Iterator[tuple[int, str]]:
    """(number, line) of each that is not blank. Raises Refusal(invalid_setting)."""
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{file} is not UTF-8 (byte {error.start}): convert it; UTF-16 is not read"
            ) from None
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{file} cannot be read ({error.strerror}): name a file with one event a line",
            ) from None
    elif text == "-":
        try:
            found = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"standard input is not UTF-8 (byte {error.start}): convert it; UTF-16 is not read",
            ) from None
    elif text is not None:
        found = [text]
    else:
        raise Refusal(FailureCode.INVALID_SETTING, "nothing to send: give a text, - for standard input, or --file")
    return ((number, line) for number, line in enumerate(found, 1) if line.strip())


def content(line: str) -> dict[str, Any] | str:
    """Fields where the line is a JSON object. Raises Refusal(undecodable_event)."""
    if not line.lstrip(" \t\n\r").startswith("{"):
        check_begins(line)
        return line
    fields: dict[str, Any] = from_json(line.encode())
    return fields


def parameters(written: str) -> dict[str, Any]:
    """The object of this JSON. Raises Refusal(invalid_setting)."""
    try:
        return msgspec.json.decode(written, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"--generation {written[:60]!r} is no JSON object: write '{{\"seed\": 1}}'"
        ) from None
