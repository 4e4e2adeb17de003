"""The messages for a text that is no whole text of its row's grammar: where it ended, and what to change. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.json_schema.places import (
    BOUND_BY,
    MOST_CHARS,
    MOST_DIGITS,
    MOST_ITEMS,
    Path,
    What,
    declared,
    is_bounded,
    shown,
)
from guideway.schemas.output import Json, Number, OutputRule, Regex
from guideway.workers.engine.text.json_text import Crossing, JsonText, Open, path_of

ENDED: Final = "the model ended the text before its form was complete: change the endpoint's output rule"
_NAME_CHARS: Final = 40
_RAISE: Final = "raise generation.max_tokens"


def stopped(stop: str) -> str:
    """The message for a text that the stop string `stop` ended."""
    return (
        f"the stop string {json.dumps(stop, ensure_ascii=False)} ended the text before its form was complete: take it "
        "out of the endpoint's generation.stop, or change its output rule"
    )


def ran_out(text: str, rule: OutputRule, max_tokens: int) -> str:
    """The message for a text that `max_tokens` ended."""
    said = f"{max_tokens} tokens were not enough for a complete result"
    match rule:
        case Json(schema):
            return f"{said}: {_in_json(text, schema)}"
        case Regex():
            return (
                f"{said}: after {len(text)} characters output.pattern could go on; bound its repetitions ({{1,20}} in "
                f"place of + and *), or {_RAISE}"
            )
        case Number():
            return f"{said}: the number could have had more digits; {_RAISE}"
        case _:
            return f"{said}: {_RAISE}, or shorten what output.labels has"


def grown(crossing: Crossing, schema: Mapping[str, Any]) -> Refusal | None:
    """The refusal of a value that has grown larger than the schema, or else our defaults, allow; None if it may."""
    where, path = _of(crossing.path), crossing.path
    match crossing.what:
        case "twice":
            return Refusal(
                FailureCode.OUTPUT_UNREADABLE,
                f"the object{_of(path[:-1])} names {_quoted(path[-1])} twice: declare its properties in output.schema, "
                "and set additionalProperties to false",
            )
        case "fraction" | "exponent":
            said = f"the number{where} has no end after its {'point' if crossing.what == 'fraction' else 'exponent'}"
            return _unended(f"{said}: let it be a string with a pattern in output.schema, or change the instruction")
        case "object":
            names = crossing.names
            if (names and len(_undeclared(names, schema, path)) <= MOST_ITEMS) or is_bounded(schema, path, "object"):
                return None
            much = f"more than {MOST_ITEMS} members" if names else f"a name of more than {MOST_CHARS} characters"
            return _unended(f"the object{where} has {much} that nobody declared, and no end: {_give('object')}")
        case "string" | "number" | "array" as what:
            if is_bounded(schema, path, what, negative=crossing.negative):
                return None
            return _unended(f"the {what}{where} has more than {_MOST[what]}: {_lift(what, negative=crossing.negative)}")


_MOST: Final[dict[What, str]] = {
    "string": f"{MOST_CHARS} characters",
    "number": f"{MOST_DIGITS} digits before its point",
    "array": f"{MOST_ITEMS} elements",
}
_SIZES: Final[dict[What, str]] = {
    "string": "character",
    "number": "digit",
    "array": "element",
    "object": "member",
}


def _in_json(text: str, schema: Mapping[str, Any]) -> str:
    seen = JsonText()
    seen.see(text.encode())
    if (found := _culprit(seen, schema)) is None:
        at = f"at {shown(seen.path)}" if seen.path else "at its beginning" if len(text) < 2 else "before its end"
        return f"it ended {at}; {_RAISE}, or let output.schema ask for less"
    one, path = found
    if one.what == "number":
        return f"the number{_of(path)} could have had more digits; {_RAISE}"
    return f"the {one.what}{_of(path)} had {_counted(one)} and no end; {_give(one.what)}, or {_RAISE}"


def _culprit(seen: JsonText, schema: Mapping[str, Any]) -> tuple[Open, Path] | None:
    """The open value that has no bound and takes most of the text, and its path; of several, the innermost."""
    for depth in range(len(seen.open) - 1, -1, -1):
        one, path = seen.open[depth], path_of(seen.open[:depth])
        if (depth == 0 or 2 * (seen.size - one.start) >= seen.size) and _is_endless(one, path, schema):
            return one, path
    return None


def _is_endless(one: Open, path: Path, schema: Mapping[str, Any]) -> bool:
    if one.what == "object":
        return bool(_undeclared(one.names, schema, path)) and not is_bounded(schema, path, "object")
    return one.what == "number" or not is_bounded(schema, path, one.what)


def _undeclared(names: Iterable[bytes], schema: Mapping[str, Any], path: Path) -> set[str]:
    return {name.decode(errors="replace") for name in names} - declared(schema, path)


def _counted(one: Open) -> str:
    return f"{one.size} {_SIZES[one.what]}{'' if one.size == 1 else 's'}"


def _give(what: What) -> str:
    return f"give it {BOUND_BY[what]} in output.schema"


def _lift(what: What, *, negative: bool) -> str:
    keyword = "minimum" if negative and what == "number" else BOUND_BY[what]
    return f"if that is meant, give it a {keyword} of its own in output.schema, which may be larger"


def _of(path: Path) -> str:
    return f" {shown(path)}" if path else ""


def _quoted(name: str | int) -> str:
    text = str(name)
    return json.dumps(text if len(text) <= _NAME_CHARS else f"{text[:_NAME_CHARS]}…")


def _unended(message: str) -> Refusal:
    return Refusal(FailureCode.OUTPUT_INCOMPLETE, message)
