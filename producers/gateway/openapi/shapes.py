"""What goes into an endpoint and what comes out, as JSON Schemas. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.schemas.input import Field
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""The keys below these keywords are names, not keywords."""
_LITERAL: Final = frozenset({"const", "enum", "default", "examples"})
_IDENTITY: Final = frozenset({"$id", "$schema", "$anchor", "$dynamicAnchor"})
"""Inside another document these would change what references mean."""


def fields_of(endpoint: Endpoint) -> dict[str, Any]:
    """The JSON object of an event."""
    declared = endpoint.input.fields
    return {
        "type": "object",
        "properties": {name: _field(field) for name, field in declared.items()},
        "required": [name for name, field in declared.items() if field.required],
        "additionalProperties": False,
    }


def value_of(rule: OutputRule, place: str) -> dict[str, Any]:
    """The typed result. place: the JSON pointer, with `#`, at which this will stand in the document."""
    found: dict[str, Any]
    match rule:
        case Text():
            found = {"type": "string"}
        case Choice(labels=labels):
            found = {"enum": [*labels, *([None] if _may_be_null(rule) else [])]}
        case Boolean():
            found = {"type": ["boolean", "null"] if _may_be_null(rule) else "boolean"}
        case Number(decimals=decimals, negative=negative):
            found = {"type": "number" if decimals else "integer"} | ({} if negative else {"minimum": 0})
        case WordLabels(labels=labels):
            pair = {"type": "array", "prefixItems": [{"type": "string"}, {"enum": [*labels]}], "items": False}
            found = {"type": "array", "items": pair}
        case Json(schema=schema):
            moved = _moved(schema, place)
            found = moved if isinstance(moved, dict) else {}
        case Regex(pattern=pattern):
            # Not `pattern`: that is JavaScript's kind of expression, this is RE2's.
            found = {"type": "string", "description": f"Matches as a whole: {pattern}"}
    return found


def described(rule: OutputRule) -> str:
    """The result in words, for people."""
    match rule:
        case Text():
            found = "text"
        case Choice(labels=labels):
            shown = ", ".join(labels[:12]) + (f", … ({len(labels)} in all)" if len(labels) > 12 else "")
            found = f"one of: {shown}"
        case Boolean():
            found = "true or false"
        case Number(decimals=decimals):
            found = f"a number with at most {decimals} decimals" if decimals else "an integer"
        case WordLabels(labels=labels, words_from=field):
            found = f"one label for each word of {field}: {', '.join(labels[:12])}{', …' if len(labels) > 12 else ''}"
        case Json():
            found = "JSON by a schema"
        case Regex(pattern=pattern):
            found = f"text that matches {pattern[:200]}"
    return found


def example_fields(endpoint: Endpoint) -> dict[str, Any]:
    """Fields of the right types, as few as may be."""
    declared = {name: field for name, field in endpoint.input.fields.items() if field.required}
    declared = declared or dict(list(endpoint.input.fields.items())[:1])
    return {name: _EXAMPLES[field.type] for name, field in declared.items()}


_EXAMPLES: Final[dict[str, Any]] = {
    "string": "…", "integer": 1, "number": 1.5, "boolean": True, "array": ["…"], "object": {},
}  # fmt: skip


def _may_be_null(rule: Choice | Boolean) -> bool:
    """Whether null is told in place of a doubtful value."""
    return rule.min_confidence is not None and rule.below is None


def _field(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {"type": field.type if field.required else [field.type, "null"]}
    if field.type == "string":
        found["minLength"] = 1
        if field.max_chars is not None:
            found["maxLength"] = field.max_chars
    if field.default is not None:
        found["default"] = field.default
    if field.description:
        found["description"] = field.description
    return found


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to itself pointing at where it stands now."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _IDENTITY:
            continue
        if keyword in _LITERAL:
            found[keyword] = value
        elif keyword in _NAMED and isinstance(value, dict):
            found[keyword] = {name: _moved(one, place) for name, one in value.items()}
        elif keyword == "$ref" and isinstance(value, str) and value.startswith("#"):
            found[keyword] = place + value[1:]
        else:
            found[keyword] = _moved(value, place)
    return found
