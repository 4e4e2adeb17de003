"""A result becomes the endpoint's own message; what cannot fit is refused when the endpoint is applied."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from tests.protos import compiled, theirs

from guideway.catalogue.protobuf.descriptor_set import embedded
from guideway.catalogue.protobuf.message_type import MessageType, message_type
from guideway.catalogue.protobuf.pruning import pruned
from guideway.catalogue.protobuf.writing import check_message, written_value
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

FILE = """
syntax = "proto3";
package out;
import "google/protobuf/struct.proto";
enum Mood { MOOD_UNSPECIFIED = 0; good = 1; bad = 2; }
message Pair { string word = 1; string label = 2; }
message Str { string value = 1; }
message Named { Mood value = 1; }
message Yes { bool value = 1; }
message Int { int64 value = 1; }
message Short { int32 value = 1; }
message Plus { uint64 value = 1; }
message Real { double value = 1; }
message Half { float value = 1; }
message Tags { repeated Pair value = 1; }
message Two { string a = 1; string b = 2; }
message None {}
message Many { repeated string value = 1; }
message Order {
  string customer = 1;
  repeated Item items = 2;
  Mood mood = 3;
  int64 big = 4;
  int32 small = 5;
  double price = 6;
  google.protobuf.Struct free = 7;
  repeated Mood moods = 8;
  optional string note_text = 9;
  float weight = 10;
  repeated float weights = 11;
  repeated string names = 12;
  repeated int64 counts = 13;
  map<string, float> by_name = 14;
}
message Item { string name = 1; int64 count = 2; }
"""


def kind_of(name: str) -> MessageType:
    return message_type(embedded(pruned(compiled(FILE), [f"out.{name}"])), f"out.{name}")


def read(name: str, value: bytes) -> Any:
    return json_format.MessageToDict(theirs(f"out.{name}", FILE).FromString(value), preserving_proto_field_name=True)


ANY = Json(schema={"type": "object"})
MOOD = Choice(labels=["good", "bad"])
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "customer": {"type": "string"},
        "items": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}},
        },
        "mood": {"enum": ["good", "bad"]},
        "big": {"type": "integer"},
        "price": {"type": ["number", "null"]},
        "free": {"type": "object", "additionalProperties": True},
        "noteText": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (Text(), "Str", "A sentence."),
        (Regex(pattern="a+"), "Str", "aaa"),
        (MOOD, "Str", "bad"),
        (MOOD, "Named", "bad"),
        (Boolean(), "Yes", True),
        (Number(decimals=0), "Real", 5.0),
        (Number(), "Real", -0.25),
    ],
)
def test_one_value_is_in_the_one_field(rule: OutputRule, name: str, value: Any) -> None:
    kind = kind_of(name)
    check_message(rule, kind)
    assert read(name, written_value(value, rule, kind)) == {"value": value}


def test_integers_and_words_keep_their_types() -> None:
    for name in ("Int", "Plus"):
        rule = Number(decimals=0, negative=name == "Int")
        check_message(rule, kind_of(name))
        written = written_value(10**15 - 1, rule, kind_of(name))
        assert theirs(f"out.{name}", FILE).FromString(written).value == 10**15 - 1
    words = WordLabels(labels=["N", "V"])
    check_message(words, kind_of("Tags"))
    assert read("Tags", written_value([["birds", "N"], ["fly", "V"]], words, kind_of("Tags"))) == {
        "value": [{"word": "birds", "label": "N"}, {"word": "fly", "label": "V"}]
    }


def test_an_object_fills_the_fields_of_its_names() -> None:
    rule, kind = Json(schema=ORDER), kind_of("Order")
    check_message(rule, kind)
    value = {
        "customer": "Ada",
        "items": [{"name": "cup", "count": 2}],
        "mood": "good",
        "big": 2**53 - 1,
        "price": None,
        "free": {"a": [1, None]},
        "noteText": "x",
    }
    assert read("Order", written_value(value, rule, kind)) == {
        "customer": "Ada",
        "items": [{"name": "cup", "count": "2"}],
        "mood": "good",
        "big": str(2**53 - 1),
        "free": {"a": [1, None]},
        "note_text": "x",
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"small": 2**31}, "field small cannot hold what came"),
        ({"customer": 5}, "field customer cannot hold"),
        ({"secret text": 1}, "it has a name or a value that the message lacks"),
        ([1], "the result is no object"),
        (None, "the result is null"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_quoted(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        written_value(value, Json(schema={"type": "object"}), kind_of("Order"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "name", "said"),
    [
        (Text(), "Two", "is one value, and message out.Two has 2 fields"),
        (Text(), "None", "has 0 fields"),
        (Text(), "Int", "make it a string"),
        (Text(), "Many", "make it a string"),
        (Choice(labels=["good", "awful"]), "Named", "an enum with all labels as names"),
        (Boolean(), "Str", "make it a bool"),
        (Number(), "Int", "make it a double"),
        (Number(), "Half", "make it a double"),
        (Number(decimals=0), "Short", "make it an int64 or a double"),
        (Number(decimals=0), "Plus", "make it an int64 or a double"),
        (WordLabels(labels=["N"]), "Str", "a repeated message with two strings"),
    ],
)
def test_types_that_do_not_fit_are_refused_beforehand(rule: OutputRule, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_message(rule, kind_of(name))


def altered(name: str, part: Any) -> dict[str, Any]:
    return {**ORDER, "properties": {**ORDER["properties"], name: part}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array"}, "output.schema is no object"),
        ({**ORDER, "additionalProperties": True}, "allows additionalProperties"),
        (altered("other", {}), "a property 'other', and message out.Order no such field"),
        (
            altered("customer", {"type": "integer"}),
            r"properties\.customer is of type integer, and field customer is string",
        ),
        (altered("big", {"type": "number"}), "is of type number|may be a fraction"),
        (altered("mood", {"type": "string"}), "give it `enum` with some of MOOD_UNSPECIFIED, good, bad"),
        (altered("mood", {"enum": ["good", "awful"]}), "what enum out.Mood does not have"),
        (altered("moods", {"type": "array", "items": {"type": "string"}}), r"moods\.items may be what enum"),
        (altered("items", {"type": "array", "items": {"properties": {"x": {}}}}), r"items\.items has a property 'x'"),
        (altered("items", {"type": "object"}), "items is array"),
        (altered("weight", {"type": "number"}), "into field weight, a float.* make it a double"),
        (altered("weight", {"type": ["integer", "null"]}), "into field weight, a float.* make it a double"),
        (altered("weights", {"type": "array", "items": {"type": "number"}}), r"weights\.items may have .* a double"),
        (altered("names", {"type": "array", "items": {"type": "integer"}}), r"names\.items is of type integer"),
        (altered("counts", {"type": "array", "items": {"type": "number"}}), r"counts\.items may be a fraction"),
    ],
)
def test_schemas_that_do_not_fit_are_refused_beforehand(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_message(Json(schema=schema), kind_of("Order"))


@pytest.mark.parametrize(
    ("value", "rule", "name", "fits"),
    [
        (2**53 + 1, Number(decimals=0), "Real", False),
        (2**60, Number(decimals=0), "Real", True),
        (2**53 + 1, Number(decimals=0), "Int", True),
        ({"customer": "a", "big": 2**62 + 1}, Json(schema={"type": "object"}), "Order", True),
        ({"customer": "a", "price": 2**53 + 1}, Json(schema={"type": "object"}), "Order", False),
        ({"customer": "a", "free": {"x": [-(2**53) - 1]}}, Json(schema={"type": "object"}), "Order", False),
        ({"weight": 0.1, "weights": [2.5, 0, 1e10], "free": {"x": 0.123456789}}, ANY, "Order", True),
        ({"weight": 0.123456789}, ANY, "Order", False),
        ({"weights": [1, 2**24 + 1]}, ANY, "Order", False),
        ({"byName": {"a": 3.14159265}}, ANY, "Order", False),
        ({"price": 0.123456789, "counts": [1, 2**60 + 1], "small": 5, "mood": "good"}, ANY, "Order", True),
    ],
)
def test_no_number_loses_digits(value: Any, rule: OutputRule, name: str, fits: bool) -> None:
    if fits:
        written_value(value, rule, kind_of(name))
    else:
        with pytest.raises(ValueError, match="a number of more digits than the field for it holds"):
            written_value(value, rule, kind_of(name))
