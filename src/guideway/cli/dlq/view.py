"""A dead letter as `guideway dlq show` prints it. Bytes are somebody else's: they reach no terminal as they are."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import msgspec

from guideway.cli.console.output import out
from guideway.delivery.replay.decision import code_of, read_back
from guideway.printable import on_one_line
from guideway.schemas.record import Record


class Text(msgspec.Struct, frozen=True):
    """Bytes that are UTF-8."""

    text: str


class Base64(msgspec.Struct, frozen=True):
    """Bytes that are not."""

    base64: str


Shown = Text | Base64 | None


class Header(msgspec.Struct, frozen=True):
    name: str
    value: Shown


class Origin(msgspec.Struct, frozen=True):
    """Where the record stood, and when it was written (Unix milliseconds)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class LetterView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One dead letter; `value` is unset where it was not asked for."""

    partition: int
    offset: int
    timestamp_ms: int
    """When it became a dead letter, Unix time."""
    replayed: bool
    code: str
    message: str
    origin: Origin | None
    """None where the headers do not say it: it was not written by guideway."""
    omitted: tuple[str, ...]
    key: Shown
    headers: tuple[Header, ...]
    """The record's own."""
    value_bytes: int | None
    """None: the value is null."""
    value: Shown | msgspec.UnsetType = msgspec.UNSET


def view(record: Record, *, replayed: bool, with_value: bool) -> LetterView:
    """What is shown of a dead letter."""
    letter = read_back(record)
    return LetterView(
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        replayed=replayed,
        code=code_of(record),
        message=letter.message if letter else "",
        origin=Origin(letter.topic, letter.partition, letter.offset, letter.timestamp_ms) if letter else None,
        omitted=letter.omitted if letter else (),
        key=_shown(record.key),
        headers=tuple(Header(name, _shown(value)) for name, value in (letter.headers if letter else record.headers)),
        value_bytes=None if record.value is None else len(record.value),
        value=_shown(record.value) if with_value else msgspec.UNSET,
    )


def print_letter(letter: LetterView) -> None:
    """For a person: some lines, and a blank one."""
    note = " (replayed)" if letter.replayed else ""
    lines = [f"{letter.partition}:{letter.offset}  {when(letter.timestamp_ms)}  {letter.code or 'no code'}{note}"]
    if origin := letter.origin:
        place = f"{origin.topic} {origin.partition}:{origin.offset}"
        lines += [f"  from      {place}, written {when(origin.timestamp_ms)}", f"  message   {letter.message}"]
    else:
        lines.append("  from      nobody knows: it does not have the headers of a dead letter of guideway")
    if letter.omitted:
        lines.append(f"  left out  {', '.join(letter.omitted)}: too large")
    lines.append(f"  key       {_plain(letter.key)}")
    lines += [f"  header    {header.name}: {_plain(header.value)}" for header in letter.headers]
    if letter.value is not msgspec.UNSET:
        lines.append(f"  value     {_plain(letter.value)}")
    elif letter.value_bytes is None:
        lines.append("  value     null")
    else:
        lines.append(f"  value     {letter.value_bytes} bytes, shown with --value")
    for line in lines:
        out.print(on_one_line(line))
    out.print()


def when(timestamp_ms: int) -> str:
    """A time for a person, in UTC."""
    try:
        time = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return time.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


def _shown(data: bytes | None) -> Shown:
    if data is None:
        return None
    try:
        return Text(data.decode())
    except UnicodeDecodeError:
        return Base64(base64.b64encode(data).decode())


def _plain(shown: Shown) -> str:
    match shown:
        case None:
            return "null"
        case Text(text=text):
            return text
        case Base64(base64=text):
            return f"{text} (base64)"
