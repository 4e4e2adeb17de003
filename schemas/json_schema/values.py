"""Which values a JSON Schema allows: what contradicts itself, never ends, or says nothing of its own type. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from guideway.schemas.json_schema.bounds import BOUNDS, brief
from guideway.schemas.json_schema.keywords import parts, referred

_PAIRS: Final = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
_OF_TYPE: Final[dict[str, frozenset[str]]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({*BOUNDS, "multipleOf"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "additionalItems"}),
    "object": frozenset(
        {"properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"}
    ),
}
"""Keywords that say something of values of one type only. `format` of a number is a note that tools write."""
_LEAST, _MOST = -(2**63), 2**64 - 1
_LOOK: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]?|(\(\?<?[=!])", re.DOTALL)
"""What looks around, past escaped characters and sets of characters, in which it is nothing of the kind."""
_ESCAPES: Final = {"\a": "a", "\b": "b", "\v": "v", "\x1b": "e", "\0": "0", "\x85": "N", "\u2028": "L", "\u2029": "P"}
"""Characters that no pattern is meant to hold → the letter behind a backslash that stands for them within double quotes
of YAML, TOML or JSON. Of these `\\b` and `\\P` are of patterns too."""
_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions")


def check_values(schema: Mapping[str, Any]) -> None:
    """Check what the grammar library leaves out without a word, or writes otherwise than it is meant.

    Raises: ValueError, which names the place in the schema and says what to change.
    """
    for where, part, _ in parts(schema):
        here = f"output.schema{where}"
        if isinstance(part.get("required"), bool):
            raise ValueError(
                f"{here} has `required: {str(part['required']).lower()}`: write a list of names, `required: [NAME]`, "
                "beside the `properties` that hold it"
            )
        types = part.get("type")
        if None in (types if isinstance(types, list) else [part.get("type", "")]):
            raise ValueError(f"{here} has type null without quotes: write 'null' in quotes")
        _check_schemas(here, part)
        if part.get("prefixItems") and ("additionalItems" in part or isinstance(part.get("items"), list)):
            raise ValueError(
                f"{here} has `prefixItems` beside {'`additionalItems`' if 'additionalItems' in part else 'a list of'} "
                "`items` of older drafts: write what follows the first items as `items` alone"
            )
        if isinstance(pattern := part.get("pattern"), str):
            check_pattern(f"{here}.pattern", pattern)
        _check_bounds(here, part)
    _check_ends(schema)


def _check_schemas(here: str, part: Mapping[str, Any]) -> None:
    """Refuse what stands in the place of a schema, such as the name of a type."""
    for keyword in _SCHEMAS:
        named = part.get(keyword, {})
        if not isinstance(named, Mapping):
            raise ValueError(
                f"{here}.{keyword} gives no schema to each name: write `{keyword}: {{NAME: {{type: string}}}}`"
            )
        for name, one in named.items():
            if not isinstance(one, Mapping | bool):
                raise ValueError(
                    f"{here}.{keyword}.{name} is {json.dumps(one, default=str)[:60]}, which is no schema: write one "
                    "such as {type: string}"
                )


def check_pattern(here: str, pattern: str) -> None:
    """Refuse what regular expressions of other programs have and these lack.

    Raises: ValueError, which begins with the place `here` and says what to change.
    """
    if len(pattern) > 2 and pattern.startswith("/") and re.fullmatch(r"/[gimsuy]*", pattern[pattern.rindex("/") :]):
        raise ValueError(
            f"{here} {pattern[:60]!r} stands between slashes, which would be part of it: remove them, or where they "
            "are meant write the first as [/]"
        )
    if found := next((one for one in pattern if one in _ESCAPES), ""):
        raise ValueError(
            f"{here} holds the character U+{ord(found):04X}, which `\\{_ESCAPES[found]}` is within double quotes: put "
            "the pattern into single quotes, or write each backslash twice"
        )
    if found := next((one[1] for one in _LOOK.finditer(pattern) if one[1]), ""):
        raise ValueError(f"{here} has {found!r}: it cannot look around; describe the whole text instead")
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise ValueError(f"{here} ends in a backslash with nothing after it: double it, or leave it out")


def unused(schema: Mapping[str, Any]) -> Iterator[str]:
    """Keywords that say nothing of values of the type beside them, or of no type, one sentence each."""
    typed = {
        id(one)
        for _, part, _ in parts(schema)
        if "type" in part
        for keyword in ("allOf", "anyOf", "oneOf")
        for one in _several(part, keyword)
    }
    for where, part, joined in parts(schema):
        types = part.get("type")
        said = {"number" if one == "integer" else one for one in (types if isinstance(types, list) else [types])}
        if said <= {None}:
            found = [
                (type_, min(part.keys() & keywords)) for type_, keywords in _OF_TYPE.items() if part.keys() & keywords
            ]
            if (
                len(found) == 1
                and not joined
                and id(part) not in typed
                and not part.keys() & {"const", "enum", "$ref", "allOf", "anyOf", "oneOf"}
            ):
                yield (
                    f"output.schema{where} has {found[0][1]} without a type, so that values of all other types are "
                    f"results too: add `type: {found[0][0]}`"
                )
            continue
        for type_, keywords in _OF_TYPE.items():
            idle = sorted(part.keys() & (keywords - {"format"} if "number" in said else keywords))
            if type_ not in said and idle:
                yield (
                    f"output.schema{where}: {', '.join(idle)} says something of type {type_} only and changes "
                    f"nothing here: correct the type, or leave it out"
                )


def _check_bounds(here: str, part: Mapping[str, Any]) -> None:
    numbers = {name: one for name, one in part.items() if isinstance(one, int | float) and not isinstance(one, bool)}
    for least, most in _PAIRS:
        if least in numbers and most in numbers and numbers[least] > numbers[most]:
            pair = f"{least} {brief(numbers[least])} above {most} {brief(numbers[most])}"
            raise ValueError(f"{here} has {pair}: correct one of them")
    for name in BOUNDS:
        if isinstance(bound := numbers.get(name), int) and not _LEAST <= bound <= _MOST:
            raise ValueError(
                f"{here} has {name} {str(bound)[:40]}, which is longer than 64 bits and not JSON serializable here: "
                "choose one nearer to 0, or leave it out"
            )


def _check_ends(schema: Mapping[str, Any]) -> None:
    """Refuse references that no value ends: each needs another one inside it, or leads back to itself."""
    found = {id(part): (where, part) for where, part, _ in parts(schema)}
    endless = {*found}
    while new := {one for one in endless if _ends(found[one][1], endless, schema)}:
        endless -= new
    if id(schema) not in endless:
        return
    for where, part in found.values():
        if id(part) in endless and "$ref" in part:
            raise ValueError(
                f"output.schema{where} refers to {brief(part['$ref'])!r}, which needs itself again, so that no value "
                "of it ever ends: make the reference optional, or allow null beside it"
            )


def _ends(part: Mapping[str, Any], endless: set[int], root: Mapping[str, Any]) -> bool:
    """Whether a value of it can end, if those of the subschemas in `endless` cannot."""

    def one(inner: Any) -> bool:
        return id(inner) not in endless

    reference = part.get("$ref")
    if reference is not None and not one(root if reference == "#" else referred(reference, root)):
        return False
    if "const" in part or "enum" in part:
        return True
    if not all(map(one, _several(part, "allOf"))):
        return False
    for keyword in ("anyOf", "oneOf"):
        several = _several(part, keyword)
        if several and not any(map(one, several)):
            return False
    types = part.get("type")
    said = types if isinstance(types, list) else [types]
    if any(isinstance(other, str) and other not in {"object", "array"} for other in said):
        return True
    return _members_end(part, one) if "object" in said or "array" not in said else _items_end(part, one)


def _several(part: Mapping[str, Any], keyword: str) -> list[Any]:
    found = part.get(keyword)
    return found if isinstance(found, list) else []


def _members_end(part: Mapping[str, Any], one: Any) -> bool:
    properties, required = part.get("properties"), part.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return True
    return all(one(properties.get(name)) for name in required if isinstance(name, str))


def _items_end(part: Mapping[str, Any], one: Any) -> bool:
    least = part.get("minItems", 0)
    return not isinstance(least, int) or least < 1 or part.get("prefixItems") is not None or one(part.get("items"))
