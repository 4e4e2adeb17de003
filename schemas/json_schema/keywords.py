"""Checks of a JSON Schema that need no grammar, and the schema as the grammar library takes it. Pure."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from guideway.schemas.json_schema.bounds import brief, coarser_steps, left_out, sound_bounds
from guideway.schemas.json_schema.misspelt import meant
from guideway.schemas.json_schema.restrictions import FORMATS, restricting, says_nothing

_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object", "null")
_OF_NAMES: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords with a schema for each of their names."""
_OF_ONE: Final = frozenset(
    {"items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "additionalItems"}
    | {"unevaluatedProperties", "unevaluatedItems"}
)
_OF_SEVERAL: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_JOINING: Final = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"})
"""Keywords whose schemas hold for the same value as the properties beside them."""
_VALUES: Final = _JOINING | {"enum", "const", "properties"}
_TESTING: Final = frozenset({"not", "if", "contains", "propertyNames", "dependentSchemas"})
"""Keywords whose schemas are conditions: they do not describe the value itself."""
_SAYING: Final = _JOINING | {
    *("type", "enum", "const", "properties", "required", "patternProperties", "additionalProperties", "items"),
    *("prefixItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "not"),
    *("maxLength", "pattern", "format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
    *("propertyNames", "contains", "minContains", "maxContains", "dependentRequired"),
}
_KNOWN: Final = (
    _SAYING
    | _OF_NAMES
    | _OF_ONE
    | _OF_SEVERAL
    | {
        "$schema",
        "$id",
        "id",
        "$anchor",
        "$comment",
        "$vocabulary",
        "$dynamicAnchor",
        "title",
        "description",
        "default",
    }
    | {"examples", "example", "deprecated", "readOnly", "writeOnly", "nullable", "discriminator", "dependencies"}
    | {"contentEncoding", "contentMediaType", "contentSchema", "xml", "externalDocs"}
)


_UNKEPT: Final = frozenset(
    {"uniqueItems", "contains", "not", "if", "then", "else", "propertyNames", "dependentRequired", "dependentSchemas"}
    | {"unevaluatedProperties", "unevaluatedItems", "$dynamicRef"}
)


def check_keywords(schema: Mapping[str, Any]) -> None:
    """Check that the schema says something, and with keywords that JSON Schema has and a grammar can enforce.

    Raises: ValueError, which names the place in the schema and says what to change.
    """
    inner = schema.get("json_schema", schema)
    if (
        isinstance(inner, Mapping)
        and isinstance(inner.get("schema"), Mapping)
        and not _SAYING & (inner.keys() - {"type"})
    ):
        raise ValueError(
            "output.schema is wrapped as in OpenAI's response_format: give what stands under its `schema` alone"
        )
    for where, part, _ in parts(schema):
        for keyword in (one for one in part if one not in _KNOWN):
            if near := meant(keyword, part, _KNOWN):
                raise ValueError(f"output.schema{where} has {keyword!r:.60}: did you mean {near!r}?")
        for keyword in sorted(part.keys() & _UNKEPT):
            if not says_nothing(keyword, part[keyword]):
                raise ValueError(
                    f"output.schema{where} has {keyword!r}, which no grammar can enforce: leave it out, or use "
                    "other keywords"
                )
        _check_type(where, part.get("type"))
        _check_required(where, part)
    if not _SAYING & schema.keys():
        raise ValueError("output.schema says nothing, so that any JSON would be a result: give it `type` or more")


def schema_doubts(schema: Mapping[str, Any]) -> Iterator[str]:
    """What is allowed but is probably a mistake, one sentence each."""
    named = {step for _, part, _ in parts(schema) for step in str(part.get("$ref", "")).split("/")}
    for where, part, _ in parts(schema):
        others = (one for one in part if one not in _KNOWN | named and not one.lower().startswith(("x-", "x_")))
        if idle := [repr(one)[:60] for one in others]:
            yield (
                f"output.schema{where} has {', '.join(idle[:4])}, which JSON Schema does not have: it changes nothing"
            )
        if part.get("nullable") is True:
            yield f"output.schema{where}: `nullable` is of OpenAPI and changes nothing here: write type: [TYPE, 'null']"
        elif isinstance(one := part.get("format"), str) and one not in FORMATS:
            known = ", ".join(sorted(FORMATS))
            yield f"output.schema{where}: the format {brief(one)!r} changes nothing: known are {known}"
        elif (
            part.get("type") == "object"
            and not part.keys() & (_JOINING | {"properties", "patternProperties"})
            and part.get("additionalProperties", True) is True
        ):
            yield f"output.schema{where}: any names and values are allowed, and their text may never end"


def prepared(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as the grammar library takes it.

    What restricts nothing (the format `password`, `uniqueItems: false`) is removed. `oneOf` becomes `anyOf` where a tag
    separates the alternatives. Bounds that the library would not keep are moved, and numbers that it would leave out
    stand beside them. Objects are closed: see `_closed`.
    """
    made = _as_any_of(restricting(schema, _OF_NAMES))
    for _, part, _ in [*parts(made)]:
        if isinstance(part, dict):
            part.update(sound_bounds(part))
            steps, more = coarser_steps(part), left_out(part)
            if not part.keys() & _VALUES and (steps or more):
                names = [keyword for keyword in part if not keyword.startswith("$") and keyword not in _OF_NAMES]
                own = {keyword: part.pop(keyword) for keyword in names}
                part["anyOf"] = [
                    own,
                    *({**own, "multipleOf": step} for step in steps),
                    *([{"enum": more}] if more else []),
                ]
    return _closed(made)


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with objects that have only the declared properties, unless it says otherwise.

    Without `additionalProperties` JSON Schema allows any others, and a model invents more of them until its tokens
    are used up. Objects that several schemas describe together, by `allOf` for example, stay open.
    """
    open_ = {id(part) for _, part, joined in parts(schema) if joined}
    for _, part, _ in parts(schema):
        members = part.get("allOf")
        for member in members if isinstance(members, list) and len(members) > 1 else []:
            if isinstance(member, Mapping) and (found := referred(member.get("$ref"), schema)) is not None:
                open_.add(id(found))
    copied: dict[str, Any] = _copied(schema, open_, is_schema=True)
    return copied


def _as_any_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with `anyOf` in place of each `oneOf` whose alternatives exclude each other."""
    made = copy.deepcopy(schema)
    for _, part, _ in [*parts(made)]:
        alternatives = part.get("oneOf")
        if not isinstance(alternatives, list) or "anyOf" in part or not isinstance(part, dict):
            continue
        meant = [_meant(one, made) for one in alternatives]
        tag = _tag(meant, part.get("discriminator"))
        if tag is None and not _are_of_other_types(meant):
            continue
        for one in meant if tag is not None else []:
            if tag not in one.setdefault("required", []):
                one["required"].append(tag)
        part["anyOf"] = part.pop("oneOf")
    return made


def _meant(part: Any, root: Mapping[str, Any]) -> Any:
    """The schema that a subschema refers to, if it is a `$ref` and nothing else; else itself."""
    return referred(part["$ref"], root) if isinstance(part, Mapping) and "$ref" in part else part


def _tag(alternatives: list[Any], discriminator: Any) -> str | None:
    """The property that tells alternatives apart: each has its own constants for it, and requires it, or it is named
    by the discriminator."""
    named = discriminator.get("propertyName") if isinstance(discriminator, Mapping) else None
    if not all(
        isinstance(one, dict) and isinstance(one.get("properties"), dict) and isinstance(one.get("required", []), list)
        for one in alternatives
    ):
        return None
    for name in alternatives[0]["properties"] if alternatives else []:
        constants = [_constants(one["properties"].get(name)) for one in alternatives]
        distinct = {value for some in constants for value in some}
        apart = all(constants) and len(distinct) == sum(map(len, constants))
        if apart and (name == named or all(name in one.get("required", []) for one in alternatives)):
            return str(name)
    return None


def _constants(part: Any) -> list[str]:
    """The values of a `const` or `enum`, as JSON; empty where there are none."""
    if not isinstance(part, Mapping):
        return []
    values = [part["const"]] if "const" in part else part.get("enum")
    if not isinstance(values, list):
        return []
    return sorted({json.dumps(value, sort_keys=True) for value in values})


def _are_of_other_types(alternatives: list[Any]) -> bool:
    """Whether each alternative names its types, and no two share a type; an integer is also a number."""
    types: list[Any] = []
    for part in alternatives:
        said = part.get("type") if isinstance(part, Mapping) else None
        types += said if isinstance(said, list) else [said]
    kinds = ["number" if one == "integer" else one for one in types]
    return all(isinstance(one, str) for one in kinds) and len({*kinds}) == len(kinds)


def _copied(part: Any, open_: set[int], *, is_schema: bool) -> Any:
    if isinstance(part, list):
        return [_copied(one, open_, is_schema=is_schema) for one in part]
    if not isinstance(part, Mapping):
        return part
    if not is_schema:
        return {name: _copied(one, open_, is_schema=True) for name, one in part.items()}
    made: dict[str, Any] = {}
    for keyword, inner in part.items():
        if keyword in _OF_NAMES:
            made[keyword] = _copied(inner, open_, is_schema=False)
        else:
            made[keyword] = _copied(inner, open_, is_schema=True) if keyword in _OF_ONE | _OF_SEVERAL else inner
    said = {"additionalProperties", "unevaluatedProperties", "patternProperties"} | _JOINING
    if isinstance(part.get("properties"), Mapping) and not part.keys() & said and id(part) not in open_:
        made["additionalProperties"] = False
    return made


def parts(schema: Any, where: str = "", *, joined: bool = False) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Each subschema as (place, subschema, whether other schemas hold for the same value), the whole one first."""
    if not isinstance(schema, Mapping):
        return
    yield where, schema, joined
    for keyword, inner in schema.items():
        apart = joined or keyword in _TESTING
        if keyword in _OF_NAMES and isinstance(inner, Mapping):
            for name, one in inner.items():
                yield from parts(one, f"{where}.{keyword}.{name}", joined=keyword == "dependentSchemas")
        elif keyword in _OF_SEVERAL and isinstance(inner, list):
            beside = keyword != "prefixItems" and bool(schema.keys() & ((_JOINING - {keyword}) | {"properties"}))
            several = (keyword == "allOf" and len(inner) > 1) or beside
            for number, one in enumerate(inner):
                inside = joined and keyword in {"allOf", "anyOf", "oneOf"}
                yield from parts(one, f"{where}.{keyword}[{number}]", joined=inside or several)
        elif keyword in _OF_ONE:
            same = keyword in {"then", "else"}
            yield from parts(inner, f"{where}.{keyword}", joined=same or (apart and keyword in _TESTING))


def referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a `$ref` like `#/$defs/name` refers to in the schema `root`; None for any other reference."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: Any = root
    for step in reference[2:].split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _check_type(where: str, type_: Any) -> None:
    for one in type_ if isinstance(type_, list) else [type_]:
        if isinstance(one, str) and one not in _TYPES:
            near = difflib.get_close_matches(one, _TYPES, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(_TYPES)}"
            raise ValueError(f"output.schema{where} has type {brief(one)!r}: {meant}")


def _check_required(where: str, part: Mapping[str, Any]) -> None:
    properties, required = part.get("properties"), part.get("required")
    free = part.keys() & (_JOINING | {"additionalProperties", "patternProperties", "unevaluatedProperties"})
    if free or not isinstance(properties, Mapping) or not isinstance(required, list):
        return
    for name in required:
        if isinstance(name, str) and name not in properties:
            near = difflib.get_close_matches(name, properties, 1)
            meant = f"did you mean {near[0]!r}?" if near else "declare it, or leave it out of `required`"
            raise ValueError(f"output.schema{where} requires {brief(name)!r}, which is none of its properties: {meant}")
