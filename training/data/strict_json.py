"""A strict reader of JSON: it refuses a name that occurs twice, NaN, and half of a character."""

from __future__ import annotations

import json
import math
from typing import Any


class NotJson(ValueError):
    """The text is no JSON. The message begins with `it`, and says why and what to do."""


class Strange(NotJson):
    """Other readers would read it as something else than what is written."""


def strict_json(text: str) -> Any:
    """The value of the text. Raises NotJson."""
    try:
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_constant, parse_float=_float)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson("it is nested too deeply: flatten it") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"it is no JSON ({error.msg.lower()} at character {error.pos + 1}){_why(text, error)}") from None
    except ValueError:
        raise Strange("it holds a number of thousands of digits: write it as text") from None
    if "\\u" in text:
        _check_characters(value)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Strange(f"it names {twice!r:.60} twice: keep one of the two")
    return members


def _constant(_: str) -> Any:
    raise Strange("it holds NaN or Infinity, which JSON does not have: write null, or leave it out")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Strange(f"it holds the number {text[:20]}, which is too large: write it as text")
    return number


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Strange(f"it holds half of a surrogate pair, {half}: leave it out") from None


def _why(text: str, error: json.JSONDecodeError) -> str:
    """The likely cause, for the most frequent mistakes."""
    rest = text[error.pos :].lstrip()
    if text.lstrip()[:1] == "'" or rest[:1] == "'":
        return ": names and texts stand in double quotes"
    if error.msg == "Extra data" and rest[:1] in ("{", "["):
        return ": it holds several values, which stand on lines of their own in a file .jsonl"
    if rest[:2] in ("//", "/*") or rest[:1] == "#":
        return ": JSON has no comments"
    if rest[:1] in ("}", "]", ",") or (error.msg == "Extra data" and rest[:1] == ","):
        return ": is there a comma too many?"
    return ""
