"""Every output rule as a grammar: what it lets through, what it does not, and rules that nothing satisfies."""

from __future__ import annotations

import json
import math
from typing import Any

import llguidance.numpy
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.workers.engine.text.grammar import BatchedGrammar, Grammar
from guideway.workers.engine.text.grammars import Grammars

OBJECT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
DAY = {"type": "string", "format": "date"}
DAYS = {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": DAY}
WORDS = ["The", "fox's", "(x/y)", 'é"\\']


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    from tests.workers.engine.conftest import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer: PreTrainedTokenizerFast) -> Grammars:
    return Grammars(tokenizer, vocabulary=300, eos_ids={tokenizer.eos_token_id})


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def start(grammars: Grammars, rule: OutputRule, words: list[str] = WORDS) -> Grammar:
    grammar = grammars.start(rule, words)
    assert grammar is not None
    return grammar


ACCEPTED: list[tuple[OutputRule, list[str]]] = [
    (Choice(["a", "ab", "a b", "é+(", "\n"]), ["a", "ab", "a b", "é+(", "\n"]),
    (Boolean(), ["true", "false"]),
    (Boolean("yes/no"), ["yes", "no"]),
    (Boolean("1/0"), ["1", "0"]),
    (Number(), ["0", "-1", "12.345678", "999999999999999", "-0.5"]),
    (Number(decimals=0), ["7", "-7"]),
    (Number(decimals=2, negative=False), ["7.25"]),
    (WordLabels(["N", "NN"]), ["The/N fox's/NN (x/y)/N é\"\\/NN"]),
    (Json(OBJECT), ['{"name":"x","tags":[]}', '{"name":"é \\n","tags":["a","b"]}']),
    (Json({"enum": ["red", 3]}), ['"red"', "3"]),
    (Json(DAY), ['"2024-02-29"', '"2000-02-29"', '"2023-02-28"', '"2023-03-29"']),
    (Json({"type": "array", "items": DAY, "uniqueItems": False, "maxItems": 2}), ['["2024-01-31","2024-01-31"]']),
    (
        Json({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": DAY}),
        ['{"a":"1999-12-31"}'],
    ),
    (Regex("[A-Z]{2}-[0-9]{1,3}"), ["AB-1", "ZZ-123"]),
    (Regex(r"\d+|x*"), ["", "12", "xx"]),
]
REFUSED: list[tuple[OutputRule, list[str]]] = [
    (Choice(["ab"]), ["", "a", "abc", "AB", " ab"]),
    (Boolean("yes/no"), ["true", "Yes", "yes."]),
    (Number(), ["", "-", "1.", ".5", "01", "1e5", "1.1234567", "12345678901234567", "+1"]),
    (Number(decimals=0), ["1.0"]),
    (Number(negative=False), ["-1"]),
    (WordLabels(["N"]), ["The/N", "The/N fox's/N (x/y)/N é\"\\/X", "The/N  fox's/N (x/y)/N é\"\\/N"]),
    (
        Json(OBJECT),
        ['{"name": "x","tags":[]}', '{"tags":[],"name":"x"}', '{"name":"x"}', '{"name":"x","tags":[],"z":1}'],
    ),
    (Json(DAY), ['"2023-02-29"', '"1900-02-29"', '"2023-02-30"']),
    (Json({**DAY, "pattern": "^20"}), ['"2023-02-29"', '"1999-01-01"']),
    (Json({"type": "string", "format": "date-time"}), ['"2023-02-29T10:00:00Z"', '"2024-02-29T10:00:60Z"']),
    (Json({"type": "string", "pattern": '^[^",-]*$'}), [r'"x\""', '"a,b"', '"a-b"']),
    (Json({"type": "string", "pattern": r"^[^\\]+$"}), [r'"x\\"']),
    (Json({"type": "object", "patternProperties": {'^[^"]+$': {}}, "additionalProperties": False}), [r'{"a\"":1}']),
    (Regex("[A-Z]{2}"), ["A", "ABC", "ab"]),
]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in ACCEPTED for text in texts], ids=str)
def test_a_text_of_the_rule_can_be_generated(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, rule: OutputRule, text: str
) -> None:
    grammar = start(grammars, rule)
    ids = tokenizer.encode(text)
    for id_ in ids:
        assert allowed(grammar)[id_]
        grammar.accept(id_)
    assert grammar.is_complete
    assert grammar.text(ids) == text
    if not grammar.is_ended:
        assert allowed(grammar)[tokenizer.eos_token_id]
    assert grammar.derives(text)


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in REFUSED for text in texts], ids=str)
def test_a_text_outside_the_rule_cannot(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, rule: OutputRule, text: str
) -> None:
    grammar = start(grammars, rule)
    possible = True
    for id_ in tokenizer.encode(text):
        if grammar.is_ended or not allowed(grammar)[id_]:
            possible = False
            break
        grammar.accept(id_)
    assert not (possible and grammar.is_complete)
    assert not start(grammars, rule).derives(text)


def test_a_label_is_written_in_the_models_own_tokens(grammars: Grammars, tokenizer: PreTrainedTokenizerFast) -> None:
    """`t` alone would settle `true`, though a model that means true writes it as one token."""
    first = {id_ for id_, may in enumerate(allowed(start(grammars, Boolean()))) if may}
    assert first == {tokenizer.encode("true")[0], tokenizer.encode("false")[0]}
    assert tokenizer.encode("t")[0] not in first


def allowed(grammar: Grammar) -> list[bool]:
    logits = torch.zeros(1, 300)
    assert BatchedGrammar([grammar]).mask_(logits) == {}
    return [value > -math.inf for value in logits[0].tolist()]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Regex("(a"), "unclosed group"),
        (Regex(r"(a)\1"), "backreferences are not supported"),
        (Regex("a(?=b)"), "look-around"),
        (Regex(r"[^\s\S]"), "no text matches it"),
        (Json({"type": "string", "minLength": 5, "maxLength": 2}), "greater than maxLength"),
        (Json({"type": "object", "properties": {"a": False}, "required": ["a"]}), "'a' is unsatisfiable"),
        (Json({"type": "nonsense"}), "nonsense"),
        (Json({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Json({"$ref": "#/definitions/gone"}), "/definitions/gone"),
        (WordLabels(["N"]), "no words"),
        (Json({"enum": [10**30]}), "under enum"),
        (Json({"minimum": 10**30}), "not JSON serializable"),
        (Json({"type": "array", "items": nested(850)}), "nested"),
        # Given to the library, each of these ends the process: its stack overflows.
        (Json({"const": -(2**63)}), "under const"),
        (Json({"enum": [[-(2**63) + 1]]}), "under enum"),
        (Json({"type": "integer", "minimum": -1e19, "maximum": -9.3e18}), "maximum -9.3e+18"),
    ],
)
def test_a_rule_that_nothing_satisfies_is_refused(grammars: Grammars, rule: OutputRule, says: str) -> None:
    with pytest.raises(Refusal) as refused:
        grammars.start(rule, [])
    assert refused.value.code == FailureCode.OUTPUT_UNSATISFIABLE
    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_free_text_has_no_grammar(grammars: Grammars) -> None:
    assert grammars.start(Text(), []) is None


def test_rows_of_one_rule_do_not_share_their_place(grammars: Grammars, tokenizer: PreTrainedTokenizerFast) -> None:
    one, other = start(grammars, Choice(["ab", "cd"])), start(grammars, Choice(["ab", "cd"]))
    one.accept(tokenizer.convert_tokens_to_ids("a"))
    assert sum(allowed(one)) == 1
    assert sum(allowed(other)) == 2


@pytest.mark.parametrize("schema", [{"enum": ["ab", "cd"]}, {"type": "array", "minItems": 1}, {"type": "object"}])
def test_what_may_come_where_there_is_a_choice_is_known_before_a_row_begins(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]
) -> None:
    """Of many values it takes long to find out, and all rows of a step would wait."""
    masks: list[bytes] = []
    fill = llguidance.numpy.fill_next_token_bitmask

    def filled(matcher: Any, bitmask: Any, index: int = 0) -> None:
        fill(matcher, bitmask, index)
        masks.append(bitmask[index].tobytes())

    monkeypatch.setattr(llguidance.numpy, "fill_next_token_bitmask", filled)
    row = start(grammars, Json(schema))
    known = {*masks}
    while forced := row.forced:
        for token_id in forced:
            row.accept(token_id)
    assert sum(allowed(row)) > 1
    assert masks[-1] in known


def test_words_are_part_of_what_is_kept(grammars: Grammars) -> None:
    assert start(grammars, WordLabels(["N"]), ["a"]).derives("a/N")
    assert start(grammars, WordLabels(["N"]), ["b"]).derives("b/N")


@pytest.mark.parametrize(
    "wish",
    [
        {"whitespace_flexible": True},
        {"item_separator": " , "},
        {"key_separator": ";"},
        {"whitespace_pattern": "x*"},
        {"lenient": True},
        {"json_allow_general_unicode_escapes": True},
        {"nonsense": 1},
        5,
    ],
    ids=str,
)
def test_a_schema_cannot_change_the_grammar_librarys_settings(grammars: Grammars, wish: Any) -> None:
    schema: dict[str, Any] = {"type": "array", "items": {"type": "integer"}, "x-guidance": wish}
    assert start(grammars, Json(schema)).derives(json.dumps([1, 2], separators=(",", ":")))
    for text in ("[1, 2]", "[1 , 2]", "[1;2]", "[1,x2]"):
        assert not start(grammars, Json(schema)).derives(text)
    with pytest.raises(Refusal):
        grammars.start(Json({**schema, "uniqueItems": True}), [])


def test_only_rows_with_a_grammar_are_masked(grammars: Grammars, tokenizer: PreTrainedTokenizerFast) -> None:
    logits = torch.zeros(3, 300)
    BatchedGrammar([None, start(grammars, Boolean("1/0")), None]).mask_(logits)
    assert logits.isfinite().sum(dim=1).tolist() == [300, 2, 300]


def test_a_grammar_that_cannot_be_followed_allows_nothing_and_says_why(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast
) -> None:
    broken = start(grammars, Boolean("1/0"))
    with pytest.raises(Refusal):
        broken.accept(tokenizer.convert_tokens_to_ids("x"))
    logits = torch.zeros(2, 300)
    failed = BatchedGrammar([start(grammars, Boolean("1/0")), broken]).mask_(logits)
    assert failed.keys() == {1}
    assert logits.isfinite().sum(dim=1).tolist() == [2, 0]


def test_a_long_text_is_labelled_quickly(grammars: Grammars) -> None:
    words = [f"w{i}" for i in range(2000)]
    labels = [f"L{i}" for i in range(50)]
    assert start(grammars, WordLabels(labels), words).derives(" ".join(f"{word}/L49" for word in words))
