"""What a JSON Schema allows at all, and the bounds of numbers that the grammar keeps."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest

from guideway.schemas.json_schema.bounds import sound_bounds
from guideway.schemas.json_schema.keywords import check_keywords, prepared
from guideway.schemas.json_schema.values import check_values, unused

REF: dict[str, Any] = {"$ref": "#/$defs/A"}


def of(definition: dict[str, Any]) -> dict[str, Any]:
    return {**REF, "$defs": {"A": definition}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"a": {"type": "string", "required": True}}}, ".properties.a has `required: true`: write a l"),
        ({"properties": {"a": {"type": ["string", None]}}}, ".properties.a has type null without quotes"),
        ({"properties": {"a": {"minLength": 5, "maxLength": 2}}}, ".properties.a has minLength 5 above maxLength 2"),
        ({"anyOf": [{"minItems": 5, "maxItems": 2}, {"type": "null"}]}, ".anyOf[0] has minItems 5 above maxItems 2"),
        ({"prefixItems": [{"type": "string"}], "additionalItems": False}, "`prefixItems` beside `additionalItems`"),
        ({"prefixItems": [{"type": "string"}], "items": [{"type": "null"}]}, "`prefixItems` beside a list of `items`"),
        ({"properties": {"a": {"pattern": "/a/i"}}}, ".properties.a.pattern '/a/i' stands between slashes"),
        ({"pattern": "/v1/"}, "or where they are meant write the first as [/]"),
        ({"properties": {"a": {"pattern": "(?<!a)b"}}}, "it cannot look around"),
        ({"pattern": r"\\[(?=\]](?!a)"}, "has '(?!'"),
        ({"pattern": "\bcat\b"}, "holds the character U+0008, which `\\b` is within double quotes"),
        ({"properties": {"a": "string"}}, '.properties.a is "string", which is no schema'),
        ({"$defs": {"A": {"properties": {"b": None}}}, **REF}, ".$defs.A.properties.b is null, which is no schema"),
        ({"properties": ["a"]}, ".properties gives no schema to each name"),
        ({"pattern": "a\\"}, "ends in a backslash with nothing after it"),
        ({"type": "integer", "minimum": 10**30}, "longer than 64 bits"),
        ({"type": "integer", "minimum": -(2**63) - 1}, "longer than 64 bits"),
        ({"$ref": "#"}, "refers to '#', which needs itself again"),
        (of(REF), "refers to '#/$defs/A', which needs itself again"),
        (of({"type": "object", "properties": {"n": REF}, "required": ["n"]}), "needs itself again"),
        (of({"type": "array", "items": REF, "minItems": 1}), "needs itself again"),
        (of({"anyOf": [{"allOf": [REF]}, REF]}), "needs itself again"),
    ],
)
def test_what_no_grammar_says_of_itself_is_refused(schema: dict[str, Any], says: str) -> None:
    check_keywords(schema)
    with pytest.raises(ValueError, match=r"^output\.schema") as caught:
        check_values(schema)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        of({"type": "object", "properties": {"n": REF}}),
        of({"type": "object", "properties": {"n": {"anyOf": [REF, {"type": "null"}]}}, "required": ["n"]}),
        of({"type": ["object", "null"], "properties": {"n": REF}, "required": ["n"]}),
        of({"anyOf": [{"type": "string"}, {"type": "array", "items": REF, "minItems": 2}]}),
        of({"type": "array", "items": REF}),
        {"type": "object", "properties": {"a": {"type": "object", "required": ["required"]}}},
        {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
        {"pattern": "a\\\\"},
        {"pattern": "[/]v1/"},
        {"allOf": 5},  # told by the grammar library
        {"pattern": r"^f\(?=x$"},
        {"pattern": r"^[](?=a]+[^(?!\]](?:a)$"},
        {"$ref": "#/components/schemas/A", "components": {"schemas": {"A": {"type": "object"}}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/x/A"}}, "required": ["a"], "$defs": {"x": {"A": {}}}},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ],
)
def test_what_can_be_written_is_taken(schema: dict[str, Any]) -> None:
    check_values(schema)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "minimum": 3}, ["minimum says something of type number only"]),
        ({"type": ["object", "null"], "items": {"type": "null"}}, ["items says something of type array only"]),
        ({"type": "integer", "format": "int64", "minimum": 3}, []),
        ({"type": ["string", "integer"], "minimum": 3, "maxLength": 3}, []),
        ({"properties": {"a": {"minimum": 3}}, "type": "object"}, [".properties.a has minimum without a type"]),
        ({"properties": {}, "required": []}, ["add `type: object`"]),
        ({"type": "object", "allOf": [{"required": ["a"]}, {"required": ["b"]}]}, []),
        ({"type": "object", "oneOf": [{"properties": {"a": {"const": 1}}}, {"required": ["b"]}]}, []),
        ({"type": "string", "anyOf": [{"format": "date"}, {"pattern": "^a"}]}, []),
    ],
)
def test_keywords_of_another_type_or_of_none_are_doubted(schema: dict[str, Any], words: list[str]) -> None:
    found = [*unused(schema)]
    assert len(found) == len(words)
    assert all(word in one for word, one in zip(words, found, strict=True))


def test_a_property_that_is_named_as_a_bound_is_none() -> None:
    schema = {"type": "object", "properties": {"exclusiveMinimum": {"type": "number"}, "enum": {"exclusiveMinimum": 0}}}
    made = prepared(schema)["properties"]
    assert made["exclusiveMinimum"] == {"type": "number"}
    assert 0 < made["enum"]["exclusiveMinimum"] < 1e-14
    assert sound_bounds({"minimum": 0, "maximum": 0.5, "exclusiveMaximum": 10}) == {}


@pytest.mark.parametrize("seed", range(20))
def test_bounds_are_kept_to_the_last_digit_and_leave_out_nothing_between_them(seed: int) -> None:
    llguidance = pytest.importorskip("llguidance")
    rng = random.Random(seed)
    least, most = sorted([round(rng.uniform(-3, 3), rng.randrange(4)), round(rng.uniform(-3, 3), 1 + rng.randrange(3))])
    at_least, at_most = rng.choice(["minimum", "exclusiveMinimum"]), rng.choice(["maximum", "exclusiveMaximum"])
    schema = prepared({"type": "number", at_least: least, at_most: most + 0.5})
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(schema))
    low, high = Decimal(repr(least)), Decimal(repr(most + 0.5))
    for thousandths in range(-4000, 4001):
        text = f"{Decimal(thousandths).scaleb(-3).normalize():f}"
        value = Decimal(text)
        is_within = low < value < high or (value == low and at_least == "minimum")
        is_within = is_within or (value == high and at_most == "maximum")
        matcher.reset()
        tokens = tokenizer.tokenize_str(text)
        fits = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        assert fits is is_within, (text, schema)


@pytest.mark.parametrize(
    ("schema", "written", "left_out"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.1", "0.5", "0.000001"], ["0", "0.0", "0.6"]),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, ["1.1", "1.5"], ["1", "1.0"]),
        ({"type": "number", "minimum": -1.5, "exclusiveMaximum": -1}, ["-1.1", "-1.5"], ["-1", "-1.0"]),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, ["-0.1"], ["-0", "0", "-0.0"]),
        ({"allOf": [{"exclusiveMinimum": 0}, {"maximum": 0.5}], "type": "number"}, ["0.1"], ["0"]),
        ({"type": "number", "minimum": 9, "exclusiveMaximum": 10}, ["9", "9.9", "9.999"], ["10"]),
        # A bound that is cut after a digit is no beginning of the bound alone.
        ({"type": "number", "minimum": 0, "maximum": 0.955}, ["0", "0.9", "0.95", "0.955"], ["0.956", "0.96", "1"]),
        ({"type": "number", "minimum": -0.95, "exclusiveMaximum": 1.25}, ["-0.9", "1.2"], ["-0.96", "1.25"]),
        ({"type": "number", "exclusiveMinimum": 0.9, "maximum": 0.95}, ["0.95", "0.91"], ["0.9", "0.96"]),
        ({"type": ["number", "null"], "maximum": 0.95, "multipleOf": 0.3}, ["0.9", "null"], ["0.95", "0.5"]),
        # A multiple with fewer decimals than the step.
        ({"type": "number", "multipleOf": 0.05}, ["19.3", "19.30", "19.35", "0.1", "7"], ["19.31", "19.34"]),
        ({"type": "number", "multipleOf": 0.25, "maximum": 9}, ["8.5", "8.25", "8.50", "9"], ["8.4", "8.2", "9.5"]),
        ({"type": ["number", "null"], "multipleOf": 0.015}, ["0.3", "0.03", "0.015", "null"], ["0.1", "0.31"]),
        ({"type": "number", "multipleOf": 0.25, "minimum": 0.2, "maximum": 0.3}, ["0.25"], ["0.2", "0.3"]),
        ({"allOf": [{"maximum": 0.95}, {"minimum": 0.87}], "type": "number"}, ["0.9"], ["0.85", "0.96"]),
        ({"allOf": [{"maximum": 0.95}, {"minimum": 0.92}], "type": "number"}, ["0.95"], ["0.9", "0.96"]),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, ["1", "2"], ["0", "3"]),
        ({"type": "integer", "exclusiveMinimum": 2**52}, [str(2**52 + 1)], [str(2**52)]),
        ({"type": "integer", "minimum": 2**53 + 1}, [str(2**53 + 2)], [str(2**53), str(2**53 - 1)]),
        (
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            ["0", "-17", str(2**62)],
            [str(2**63), str(-(2**63) - 1)],
        ),
    ],
    ids=json.dumps,
)
def test_a_bound_is_kept_by_the_grammar(schema: dict[str, Any], written: list[str], left_out: list[str]) -> None:
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(prepared(schema)))
    for text in [*written, *left_out]:
        matcher.reset()
        tokens = tokenizer.tokenize_str(text)
        fits = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        assert fits is (text in written), text
