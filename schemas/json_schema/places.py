"""Which parts of a JSON Schema hold for a place in a JSON text, and whether they bound what stands there. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from guideway.schemas.json_schema.keywords import parts, referred
from guideway.schemas.json_schema.restrictions import FORMATS

Path = Sequence[str | int]
"""Names of members and numbers of elements, from the outermost inwards."""
What = Literal["string", "number", "array", "object"]

MOST_CHARS: Final = 4000
"""The longest string where the schema sets no bound."""
MOST_ITEMS: Final = 250
"""The longest array where the schema sets no bound; also the most undeclared members of an object."""
MOST_DIGITS: Final = 15
"""The most digits before the point where the schema sets no bound. Every reader of JSON keeps so many exactly."""

BOUND_BY: Final[dict[What, str]] = {
    "string": "maxLength",
    "number": "maximum",
    "array": "maxItems",
    "object": "additionalProperties: false",
}
"""The keyword of a schema that bounds each kind of value."""
_ENDING: Final[dict[What, frozenset[str]]] = {
    "string": frozenset({"maxLength", "pattern"}),
    "number": frozenset({"maximum", "exclusiveMaximum"}),
    "array": frozenset({"maxItems"}),
    "object": frozenset({"maxProperties"}),
}
_NEGATIVE: Final = frozenset({"minimum", "exclusiveMinimum"})
_LEAST: Final[dict[tuple[What, bool], dict[str, int]]] = {
    ("string", False): {"minLength": MOST_CHARS},
    ("number", False): {"minimum": 10**MOST_DIGITS - 1, "exclusiveMinimum": 10**MOST_DIGITS - 1},
    ("number", True): {"maximum": 10**MOST_DIGITS - 1, "exclusiveMaximum": 10**MOST_DIGITS - 1},
    ("array", False): {"minItems": MOST_ITEMS},
    ("object", False): {"minProperties": MOST_ITEMS},
}
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NAME_CHARS: Final = 40
_SHOWN_CHARS: Final = 120
_MOST_PARTS: Final = 1000


def parts_at(schema: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """The subschemas that hold for the value at `path`; none for an undeclared member."""
    found = _joined([schema], schema)
    for step in path:
        found = _joined([inner for part in found for inner in _inside(part, step)], schema)
    return found


def is_bounded(schema: Mapping[str, Any], path: Path, what: What, *, negative: bool = False) -> bool:
    """Whether the schema itself bounds the string, number (its digits before the point), array or object at `path`."""
    found = parts_at(schema, path)
    return any(_ends(one, what, negative=negative) or _wants_more(one, what, negative=negative) for one in found)


def declared(schema: Mapping[str, Any], path: Path) -> set[str]:
    """The members that the object at `path` may have by name."""
    return {name for part in parts_at(schema, path) if _has_names(part) for name in part["properties"]}


def endless(schema: Mapping[str, Any]) -> Iterator[tuple[str, What]]:
    """(place in the schema, what) of strings, arrays and objects that the schema does not bound.

    `keywords.schema_doubts` names objects whose schema says nothing of their members.
    """
    for where, part, _ in parts(schema):
        types = part.get("type")
        for what in ("string", "array", "object"):
            is_one = what in types if isinstance(types, list) else what == types
            if is_one and not _ends(part, what) and (what != "object" or _is_open(part)):
                yield where, what


def shown(path: Path) -> str:
    """The path as people read it: `order.items[3].name`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step) and len(step) <= _NAME_CHARS:
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step[:_NAME_CHARS] + '…' * (len(step) > _NAME_CHARS), ensure_ascii=True)}]"
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS // 2]}…{text[-_SHOWN_CHARS // 4 :]}"


def _ends(part: Mapping[str, Any], what: What, *, negative: bool = False) -> bool:
    ending = _NEGATIVE if negative else _ENDING[what]
    if part.keys() & {"enum", "const"} or part.keys() & ending:
        return True
    if what == "string":
        return isinstance(one := part.get("format"), str) and one in FORMATS
    if what == "array":
        return bool(part.get("prefixItems")) and part.get("items", True) is False
    return False


def _wants_more(part: Mapping[str, Any], what: What, *, negative: bool) -> bool:
    """Whether the schema's own minimum is more than our bound."""
    for keyword, most in _LEAST[what, negative].items():
        least = part.get(keyword)
        if isinstance(least, int | float) and (-least if negative else least) >= most:
            return True
    return False


def _is_open(part: Mapping[str, Any]) -> bool:
    """Whether the schema explicitly allows undeclared members in the object."""
    said = part.get("additionalProperties")
    return "patternProperties" in part or isinstance(said, Mapping) or (said is True and "properties" in part)


def _has_names(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("properties"), Mapping)


def _inside(part: Mapping[str, Any], step: str | int) -> Iterator[Any]:
    if isinstance(step, int):
        items = part.get("items")
        first = part.get("prefixItems", items if isinstance(items, list) else None)
        rest = part.get("additionalItems") if isinstance(items, list) else items
        yield first[step] if isinstance(first, list) and step < len(first) else rest
    elif _has_names(part) and step in part["properties"]:
        yield part["properties"][step]
    else:
        patterns = part.get("patternProperties")
        yield from patterns.values() if isinstance(patterns, Mapping) else ()
        yield part.get("additionalProperties")


def _joined(found: Iterable[Any], schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The subschemas, and all others that hold for the same value."""
    seen: dict[int, Mapping[str, Any]] = {}
    waiting = [*found]
    while waiting and len(seen) < _MOST_PARTS:
        part = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen[id(part)] = part
        waiting.append(schema if part.get("$ref") == "#" else referred(part.get("$ref"), schema))
        for keyword in ("allOf", "anyOf", "oneOf"):
            several = part.get(keyword)
            waiting += several if isinstance(several, list) else []
        waiting += [part.get("then"), part.get("else")]
    return [*seen.values()]
