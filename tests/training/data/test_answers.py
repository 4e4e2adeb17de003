"""How answers are written, by output rule."""

from __future__ import annotations

from typing import Any

import pytest

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Text, WordLabels
from guideway.training.data.answers import spelled

CHOICE = Choice(labels=["a", "b"])
SCHEMA = {"properties": {"a": {}, "b": {"properties": {"x": {}, "y": {}}}, "c": {"items": {"properties": {"u": {}}}}}}
TAGS = WordLabels(labels=["N", "V"])


@pytest.mark.parametrize(
    ("value", "rule", "text"),
    [
        ("free", Text(), "free"),
        (" a ", CHOICE, "a"),
        (" a ", Choice(labels=["a", " a "]), " a "),
        ("cafe\u0301", Choice(labels=["caf\u00e9", "b"]), "caf\u00e9"),
        (" caf\u00e9", Choice(labels=["cafe\u0301", "b"]), "cafe\u0301"),
        (True, Boolean(spelling="yes/no"), "yes"),
        ("False", Boolean(spelling="1/0"), "0"),
        ("no", Boolean(spelling="yes/no"), "no"),
        (3, Number(), "3"),
        ("3.50", Number(), "3.5"),
        (100, Number(decimals=0), "100"),
        (-0.0, Number(), "0"),
        (" +5. ", Number(), "5"),
        ([["cats", "N"], ["run", "V"]], TAGS, "cats/N run/V"),
        ({"b": {"y": 1, "x": 2}, "a": 0}, Json(SCHEMA), '{"a":0,"b":{"x":2,"y":1}}'),
        ({"c": [{"v": 1, "u": 2}]}, Json(SCHEMA), '{"c":[{"u":2,"v":1}]}'),
        ('{"b": {}, "a": "é"}', Json(SCHEMA), '{"a":"é","b":{}}'),
    ],
)
def test_spelled(value: Any, rule: OutputRule, text: str) -> None:
    assert spelled(value, rule) == text


@pytest.mark.parametrize(
    ("value", "rule", "words"),
    [
        (3, Text(), "is 3, and the task wants text"),
        ("c", CHOICE, "none of a, b"),
        ("maybe", Boolean(), "neither true nor false"),
        ("many", Number(), "no number"),
        (1.25, Number(decimals=1), "more than 1 decimals"),
        ("1,5", Number(), "write it as 1234.5"),
        (-1, Number(negative=False), "is below zero"),
        ([{"word": "cats", "label": "N"}], TAGS, r"no list of \[word, label\] pairs"),
        (["Nx"], WordLabels(labels=["x"]), r"no list of \[word, label\] pairs"),
        (True, Number(), "is a boolean and no number"),
        ("1_000", Number(), "no number as JSON writes it"),
        ("１２", Number(), "no number as JSON writes it"),
        (10**29 + 1, Number(), "more than 15 digits"),
        (10**400, Number(), "no number"),
        ('{"a": 1, "a": 2}', Json({}), "read in two ways: it names 'a' twice"),
        ('{"a": NaN}', Json({}), "it holds NaN"),
        ([["cats", "X"]], TAGS, "the label of a word is none"),
        ([["the cats", "N"]], TAGS, "holds white space"),
        (["cats"], TAGS, r"no list of \[word, label\] pairs"),
        ("{", Json({}), "no JSON"),
    ],
)
def test_refused(value: Any, rule: OutputRule, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spelled(value, rule)


ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}


XY = {"type": "object", "properties": {"x": {}, "y": {}}}


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        ({"additionalProperties": XY}, {"k": {"y": 1, "x": 2}}, '{"k":{"x":2,"y":1}}'),
        ({"patternProperties": {"^k": XY}}, {"k": {"y": 1, "x": 2}}, '{"k":{"x":2,"y":1}}'),
        ({"patternProperties": {"^k": XY, "^a": {}}}, {"k": {"y": 1, "x": 2}}, '{"k":{"y":1,"x":2}}'),
        (
            {"patternProperties": {"^(k+)+$": XY}},
            {"k" * 40 + "!": {"y": 1, "x": 2}},
            f'{{"{"k" * 40}!":{{"x":2,"y":1}}}}',
        ),
        ({"items": [{}, XY]}, [1, {"y": 1, "x": 2}], '[1,{"x":2,"y":1}]'),
        ({"items": [{}], "additionalItems": XY}, [1, {"y": 1, "x": 2}], '[1,{"x":2,"y":1}]'),
        ({"prefixItems": [{}], "items": XY}, [1, {"y": 1, "x": 2}], '[1,{"x":2,"y":1}]'),
        (
            {"$defs": {"A": {"additionalProperties": {"$ref": "#/$defs/B"}}, "B": XY}, "$ref": "#/$defs/A"},
            {"k": {"y": 1, "x": 2}},
            '{"k":{"x":2,"y":1}}',
        ),
    ],
)
def test_so_do_those_of_members_and_elements_that_are_not_declared_one_by_one(
    schema: dict[str, Any], value: Any, text: str
) -> None:
    assert spelled(value, Json(schema=schema)) == text


@pytest.mark.parametrize(
    "address",
    [
        {"$ref": "#/$defs/Address"},
        {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]},
        {"allOf": [{"$ref": "#/$defs/Address"}], "title": "Address"},
        {"oneOf": [{"type": "object", "properties": {"city": {}, "zip": {}}}, {"$ref": "#/$defs/Address"}]},
        {"$ref": "#/$defs/Loop"},
    ],
)
def test_keys_stand_in_the_order_of_the_schema_however_it_refers(address: dict[str, object]) -> None:
    schema = {
        "$defs": {"Address": ADDRESS, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"$ref": "#/$defs/Address"}]}},
        "type": "object",
        "properties": {"name": {}, "all": {"type": "array", "items": address}, "address": address},
    }
    value = {"address": {"city": "L", "street": "S"}, "all": [{"city": "M", "street": "T"}], "name": "A"}
    assert spelled(value, Json(schema=schema)) == (
        '{"name":"A","all":[{"street":"T","city":"M"}],"address":{"street":"S","city":"L"}}'
    )
