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
        (True, Boolean(spelling="yes/no"), "yes"),
        ("False", Boolean(spelling="1/0"), "0"),
        ("no", Boolean(spelling="yes/no"), "no"),
        (3, Number(), "3"),
        ("3.50", Number(), "3.5"),
        (100, Number(decimals=0), "100"),
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
