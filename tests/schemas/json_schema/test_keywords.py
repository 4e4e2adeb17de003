"""JSON Schemas as people bring them: what is refused, what is doubtful, and which objects are closed."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.schemas.json_schema.keywords import check_keywords, prepared, schema_doubts
from guideway.schemas.json_schema.restrictions import FORMATS

INTEGER = {"type": "integer"}
ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object", "propertys": {"a": INTEGER}}, "output.schema has 'propertys': did you mean 'properties'?"),
        ({"type": "array", "item": INTEGER}, "has 'item': did you mean 'items'?"),
        ({"properties": {"a": {"type": "string", "max_length": 3}}}, ".properties.a has 'max_length'"),
        ({"type": "array", "any_of": [INTEGER]}, "has 'any_of': did you mean 'anyOf'?"),
        ({"TYPE": "string"}, "has 'TYPE': did you mean 'type'?"),
        ({"type": "integer", "min": 1}, "has 'min': did you mean 'minimum'?"),
        ({"type": "string", "max": 9}, "has 'max': did you mean 'maxLength'?"),
        ({"type": "string", "regex": "^a"}, "has 'regex': did you mean 'pattern'?"),
        (
            {"properties": {"a": {"type": "string", "choices": ["a"]}}},
            ".properties.a has 'choices': did you mean 'enum'?",
        ),
        ({"type": "object", "fields": {"a": INTEGER}}, "has 'fields': did you mean 'properties'?"),
        ({"type": "integr"}, "has type 'integr': did you mean 'integer'?"),
        ({"anyOf": [{"type": ["string", "nul"]}]}, ".anyOf[0] has type 'nul': did you mean 'null'?"),
        ({"type": "float"}, "has type 'float': write one of string"),
        ({"name": "answer", "strict": True, "schema": {"type": "object"}}, "wrapped as in OpenAI's"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}, "wrapped as in OpenAI's"),
        (
            {"properties": {"tags": {"type": "array", "uniqueItems": True}}},
            ".properties.tags has 'uniqueItems', which",
        ),
        ({"type": "object", "not": {"type": "string"}}, "has 'not', which no grammar"),
        (
            {"properties": {"a": INTEGER}, "unevaluatedProperties": False},
            "has 'unevaluatedProperties', which no grammar",
        ),
        ({"type": "object", "propertyNames": {"enum": ["a"]}}, "has 'propertyNames', which no grammar"),
        ({}, "says nothing"),
        ({"title": "Answer", "description": "Whatever."}, "says nothing"),
        ({"$defs": {"A": INTEGER}}, "says nothing"),
        (
            {"properties": {"name": {}}, "required": ["nmae"]},
            "requires 'nmae', which is none of its properties",
        ),
    ],
)
def test_a_schema_that_does_not_say_what_is_meant_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"^output\.schema") as caught:
        check_keywords(schema)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"propertys": INTEGER, "item": {"enum": [{"propertys": 1}]}}},
        {"enum": ["a"]},
        {"type": "array", "uniqueItems": False},
        {"type": "object", "additionalProperties": INTEGER, "propertyNames": {"type": "string"}},
        {"$ref": "#/$defs/A", "$defs": {"A": INTEGER}},
        {"type": "object", "x-order": 3, "title": "A"},
        {"type": "object", "options": {"collapsed": True}, "min": "1", "values": 3},
        {"properties": {"min": INTEGER, "options": INTEGER}, "examples": [{"min": 3}]},
        {"properties": {"a": INTEGER}, "required": ["b"], "additionalProperties": True},
        {"const": {"type": "integr"}},
        {"type": "array", "items": [INTEGER, {"type": "string"}]},
    ],
)
def test_what_is_right_or_of_others_is_left_alone(schema: dict[str, Any]) -> None:
    check_keywords(schema)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"properties": {"a": {"type": "string", "nullable": True}}}, [".properties.a: `nullable`"]),
        ({"type": "object"}, [": any names and values are allowed"]),
        ({"properties": {"a": {"type": "object", "additionalProperties": INTEGER}}}, []),
        ({"type": "object", "properties": {}}, []),
        ({"properties": {"p": {"type": "string", "format": "password"}}}, [".properties.p: the format 'password'"]),
        ({"type": "string", "format": "date"}, []),
        ({"type": "string", "enumNames": ["A"], "x-a": 1}, [" has 'enumNames', which JSON Schema does not have"]),
        ({"$ref": "#/components/schemas/A", "components": {"schemas": {"A": INTEGER}}}, []),
    ],
)
def test_what_is_hardly_meant_is_doubted(schema: dict[str, Any], told: list[str]) -> None:
    found = [*schema_doubts(schema)]
    assert len(found) == len(told)
    assert all(words in doubt for words, doubt in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("schema", "places"),
    [
        (ADDRESS, [[]]),
        ({"properties": {"a": ADDRESS}}, [[], ["properties", "a"]]),
        ({"type": "array", "items": ADDRESS}, [["items"]]),
        ({"$ref": "#/$defs/A", "$defs": {"A": ADDRESS}}, [["$defs", "A"]]),
        ({"anyOf": [ADDRESS, {"type": "null"}]}, [["anyOf", 0]]),
        ({"allOf": [ADDRESS]}, [["allOf", 0]]),
        ({"allOf": [ADDRESS, {"properties": {"zip": INTEGER}}]}, []),
        ({"$defs": {"A": ADDRESS}, "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"zip": INTEGER}}]}, []),
        ({"properties": {"kind": {}}, "anyOf": [{"properties": {"a": INTEGER}}, {"properties": {"b": INTEGER}}]}, []),
        ({"properties": {"a": INTEGER}, "additionalProperties": True}, []),
        ({"properties": {"a": INTEGER}, "patternProperties": {"^x": INTEGER}}, []),
        ({"type": "object", "additionalProperties": ADDRESS}, [["additionalProperties"]]),
        ({"type": "object"}, []),
        ({"not": ADDRESS}, []),
        ({"if": ADDRESS, "then": ADDRESS, "properties": {"a": INTEGER}}, []),
        ({"const": ADDRESS}, []),
        ({"properties": {"properties": ADDRESS}}, [[], ["properties", "properties"]]),
    ],
)
def test_objects_have_what_is_declared_unless_that_is_said_otherwise(
    schema: dict[str, Any], places: list[list[Any]]
) -> None:
    before = copy.deepcopy(schema)
    expected = copy.deepcopy(schema)
    for place in places:
        part = expected
        for step in place:
            part = part[step]
        part["additionalProperties"] = False
    assert prepared(schema) == expected
    assert schema == before


def tagged(value: str, *, required: bool = True) -> dict[str, Any]:
    properties = {"kind": {"const": value}, value: INTEGER}
    return {"type": "object", "properties": properties} | ({"required": ["kind"]} if required else {})


@pytest.mark.parametrize(
    ("schema", "is_any"),
    [
        ({"oneOf": [tagged("cat"), tagged("dog")]}, True),
        ({"oneOf": [tagged("cat"), tagged("cat")]}, False),
        ({"oneOf": [tagged("cat", required=False), tagged("dog", required=False)]}, False),
        (
            {
                "oneOf": [tagged("cat", required=False), tagged("dog", required=False)],
                "discriminator": {"propertyName": "kind"},
            },
            True,
        ),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, True),
        ({"oneOf": [{"type": "string"}, {"type": ["string", "null"]}]}, False),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, False),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, True),
        ({"oneOf": [{"minimum": 3}, {"type": "string"}]}, False),
    ],
)
def test_one_of_is_any_of_where_no_value_fits_two(schema: dict[str, Any], is_any: bool) -> None:
    assert ("anyOf" in prepared(schema)) is is_any
    assert ("oneOf" in prepared(schema)) is not is_any


def test_a_tag_that_is_named_is_required_of_what_is_referred_to() -> None:
    schema = {
        "$defs": {"Cat": tagged("cat", required=False), "Dog": tagged("dog", required=False)},
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}},
    }
    made = prepared(schema)
    assert [one["required"] for one in made["$defs"].values()] == [["kind"], ["kind"]]
    assert made["anyOf"] == schema["oneOf"]


def test_formats_of_others_go_and_names_stay() -> None:
    schema = {"properties": {"format": {"type": "string", "format": "path"}, "d": {"format": "uuid"}}}
    assert prepared(schema)["properties"] == {"format": {"type": "string"}, "d": {"format": "uuid"}}
    assert prepared({"const": {"format": "path"}}) == {"const": {"format": "path"}}
    assert FORMATS


WORDS = ["type", "enum", "const", "properties", "required", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref"]
WORDS += ["$defs", "format", "not", "if"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["object", "a", "#/$defs/a", "date", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WORDS, "a", "b"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*WORDS, "discriminator"]), ANYTHING, max_size=4))
def test_whatever_stands_for_a_schema_is_taken_or_refused(schema: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        check_keywords(schema)
    assert isinstance([*schema_doubts(schema)], list)
    assert prepared(prepared(schema)) == prepared(schema)


@pytest.mark.parametrize("of_type", [5, True, "number", ["number", 5], {}])
@pytest.mark.parametrize("by", [None, True, 0.05, math.nan, math.inf, 10**400, 5e-324, "x"])
@pytest.mark.parametrize("bound", [None, True, 0.95, math.nan, -math.inf, 10**400, 5e-324, []])
def test_whatever_stands_for_a_type_a_step_or_a_bound_is_left_to_the_checks(of_type: Any, by: Any, bound: Any) -> None:
    schema = {"type": of_type, "multipleOf": by, "maximum": bound}
    assert isinstance(prepared(schema), dict)
