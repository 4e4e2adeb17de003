"""What can be told of an output rule before any model writes by it."""

from __future__ import annotations

from typing import Any

import pytest

from guideway.schemas.output import (
    Boolean,
    Choice,
    Json,
    Number,
    OutputRule,
    Regex,
    Text,
    WordLabels,
    check_output_rule,
)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("rule", "stop", "says"),
    [
        (Json({"type": "array", "x-guidance": {"item_separator": ";"}}), [], "output.schema has 'x-guidance'"),
        (Json({"enum": ["a", 2**53 + 1]}), [], "output.schema has 9007199254740993 under enum"),
        (Json({"properties": {"n": {"const": [{"a": -(2**63)}]}}}), [], "-9223372036854775808 under const"),
        (Json({"type": "integer", "minimum": -(2**63), "maximum": -(2**63)}), [], "maximum -9223372036854775808"),
        (Json({"anyOf": [{"exclusiveMaximum": -1e300}]}), [], "exclusiveMaximum -1e+300"),
        (Json({"items": {"multipleOf": 1_000_003}}), [], "multipleOf 1000003"),
        (Json({"multipleOf": 1.000003}), [], "multipleOf 1.000003"),
        (Json(nested(101)), [], "more than 100 levels"),
        (Regex("/^[a-z]+$/i"), [], "output.pattern '/^[a-z]+$/i' stands between slashes"),
        (Regex("a(?<=b)c"), [], "output.pattern has '(?<='"),
        (Choice(["New", "New York"]), ["\n", " York"], "generation.stop has ' York'"),
        (Boolean("yes/no"), ["no"], "generation.stop has 'no'"),
        (Number(), ["5"], "generation.stop has '5'"),
        (Number(), [".0"], "generation.stop has '.0'"),
        (WordLabels(["N"]), [" "], "generation.stop has ' '"),
        (WordLabels(["NN"]), ["N"], "generation.stop has 'N'"),
    ],
    ids=str,
)
def test_a_rule_that_cannot_keep_its_promise_is_refused(rule: OutputRule, stop: list[str], says: str) -> None:
    with pytest.raises(
        ValueError, match=r"^(output\.schema|output\.pattern|generation\.stop) .+(: |, which)"
    ) as caught:
        check_output_rule(rule, stop)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 10**400},
        {"const": 10**400},
        {"maximum": -(10**400)},
        {"minLength": 10**400, "maxLength": 1},
        {"type": "x" * 5000},
        {"properties": {}, "required": ["x" * 5000]},
    ],
    ids=lambda schema: next(iter(schema)),
)
def test_a_message_quotes_the_beginning_of_what_is_long(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="…") as caught:
        check_output_rule(Json(schema), [])
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("rule", "stop"),
    [
        (Text(), ["no"]),
        (Regex("[0-9]+;?"), [";"]),
        (Regex("/[a-z/]+"), []),
        (Regex("(?:a|b)(?i:c)"), []),
        (Choice(["yes", "no"]), ["\n", "yes or no"]),
        (Number(), ["\n"]),
        (Json({"properties": {"x-guidance": {"type": "integer"}}}), ["\n"]),
        (Json({"type": "array", "items": {"x-guidance": 1}}), []),
        (Json({"type": "integer", "minimum": -(2**53), "maximum": 2**63 - 1, "multipleOf": 100_000}), []),
        (Json({"enum": [2**53, -(2**53), 1e300, True, "9" * 99], "multipleOf": 0.00001}), []),
        (Json({"properties": {"maximum": {"maximum": 5}, "const": {"maximum": 2**60}}, "default": -(2**63)}), []),
        (Json(nested(100)), []),
    ],
    ids=str,
)
def test_any_other_rule_may_be_applied(rule: OutputRule, stop: list[str]) -> None:
    check_output_rule(rule, stop)


@pytest.mark.parametrize("kind", [Choice, WordLabels])
def test_labels_of_the_same_letters_are_refused(kind: type[Choice | WordLabels]) -> None:
    """Many tokenizers make one form of both, and nobody could say which label the model meant."""
    with pytest.raises(ValueError, match=r"'caf\\xe9' and 'cafe\\u0301' of the output are the same letters: keep one"):
        check_output_rule(kind(["caf\u00e9", "tea", "cafe\u0301"]), [])
    check_output_rule(kind(["caf\u00e9", "cafe", "CAF\u00c9"]), [])
