"""Which parts of a schema speak of a place in a text, and what has no end by them."""

from __future__ import annotations

from typing import Any

import pytest

from guideway.schemas.json_schema.places import Path, What, declared, endless, is_bounded, parts_at, shown

STRING, SHORT = {"type": "string"}, {"type": "string", "maxLength": 9}
ORDER = {
    "$defs": {"Line": {"type": "object", "properties": {"item": STRING, "count": {"type": "integer", "maximum": 9}}}},
    "type": "object",
    "properties": {
        "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
        "pair": {"type": "array", "prefixItems": [SHORT, STRING], "items": False},
        "note": {"anyOf": [SHORT, {"type": "null"}]},
        "when": {"type": "string", "format": "date"},
        "secret": {"type": "string", "format": "password"},
        "kind": {"enum": ["a" * 5000]},
        "more": {"type": "object", "additionalProperties": STRING},
        "codes": {"type": "object", "patternProperties": {"^x": SHORT}, "maxProperties": 3},
    },
}


@pytest.mark.parametrize(
    ("path", "what", "bounded"),
    [
        (["lines"], "array", False),
        (["lines", 7, "item"], "string", False),
        (["lines", 7, "count"], "number", True),
        (["pair"], "array", True),
        (["pair", 0], "string", True),
        (["pair", 1], "string", False),
        (["note"], "string", True),
        (["when"], "string", True),
        (["secret"], "string", False),
        (["kind"], "string", True),
        (["more"], "object", False),
        (["more", "anything"], "string", False),
        (["codes"], "object", True),
        (["codes", "x1"], "string", True),
        (["nobody", "declared", 3], "string", False),
    ],
)
def test_what_the_schema_itself_ends(path: Path, what: What, bounded: bool) -> None:
    assert is_bounded(ORDER, path, what) is bounded


def test_a_negative_number_is_ended_by_its_minimum() -> None:
    schema = {"type": "number", "minimum": -5}
    assert is_bounded(schema, [], "number", negative=True)
    assert not is_bounded(schema, [], "number")


@pytest.mark.parametrize(
    ("schema", "what", "negative"),
    [
        ({"minimum": 2**53}, "number", False),
        ({"exclusiveMinimum": 1e15}, "number", False),
        ({"maximum": -(2**53)}, "number", True),
        ({"minLength": 4000}, "string", False),
        ({"minItems": 300}, "array", False),
    ],
)
def test_our_bounds_do_not_forbid_what_the_schema_asks_for(schema: dict[str, Any], what: What, negative: bool) -> None:
    assert is_bounded(schema, [], what, negative=negative)
    assert not is_bounded(dict.fromkeys(schema, -5 if negative else 5), [], what, negative=negative)


def test_members_are_declared_where_any_part_of_the_schema_does() -> None:
    joined = {
        "allOf": [{"properties": {"a": STRING}}, {"$ref": "#/$defs/B"}],
        "$defs": {"B": {"properties": {"b": {}}}},
    }
    assert declared(joined, []) == {"a", "b"}
    assert declared(joined, ["a"]) == set()


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"},
        {"$ref": 5, "anyOf": "no", "properties": [], "items": 3, "patternProperties": 1},
    ],
)
def test_schemas_that_go_round_in_circles_or_are_none_come_to_an_end(schema: dict[str, Any]) -> None:
    assert parts_at(schema, []) != []
    assert parts_at(schema, ["a", 3]) == []


def test_a_recursive_schema_speaks_of_every_depth() -> None:
    node = {"$ref": "#/$defs/N", "$defs": {"N": {"properties": {"next": {"$ref": "#/$defs/N"}, "name": SHORT}}}}
    assert is_bounded(node, ["next"] * 50 + ["name"], "string")


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (ORDER, 6),
        (SHORT, 0),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, 0),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}, 1),
        ({"type": "object", "properties": {}, "additionalProperties": True}, 1),
        ({"type": "object"}, 0),
    ],
)
def test_what_finds_no_end_is_listed(schema: dict[str, Any], found: int) -> None:
    assert len([*endless(schema)]) == found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (["order", "items", 3, "name"], "order.items[3].name"),
        ([0, 1], "[0][1]"),
        (["a b", "c"], '["a b"].c'),
        (["\x1b[31m"], '["\\u001b[31m"]'),
        (["x" * 50], f'["{"x" * 40}\\u2026"]'),
        ([], ""),
        ([0] * 99, "[0]" * 20 + "…" + "[0]" * 10),
    ],
)
def test_a_place_is_shown_for_people(path: Path, text: str) -> None:
    assert shown(path) == text
