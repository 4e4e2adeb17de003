"""Texts that find no end: each is a failure that names where it stood and how to give it one; none is a value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.workers.engine.conftest import MakeAdmit, tiny_tokenizer
from tests.workers.engine.scheduling.test_stopping import grammars_of, row, stopping_of
from tests.workers.engine.text.test_grammars import allowed

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.json_schema.places import MOST_CHARS, MOST_DIGITS, MOST_ITEMS
from guideway.schemas.output import Choice, Json, Number, OutputRule, Regex, WordLabels
from guideway.workers.engine.scheduling.stopping import failed
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.incomplete import ran_out
from guideway.workers.messages.from_engine import Generated
from guideway.workers.output_parser import read_value

TOKENIZER = tiny_tokenizer()
GRAMMARS = Grammars(TOKENIZER, vocabulary=300, eos_ids={TOKENIZER.eos_token_id})
STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def one_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def written(make_admit: MakeAdmit, schema: dict[str, Any], text: str, max_tokens: int = 100_000) -> Generated:
    """What becomes of a row that writes `text` for ever, or up to its end. What comes in any case is there already."""
    guided = row(make_admit, output=Json(schema), max_tokens=max_tokens)
    guided.grammar = grammars_of(TOKENIZER).start(Json(schema), [])
    stopping = stopping_of(TOKENIZER)
    try:
        for at, id_ in enumerate(TOKENIZER.encode(text)):
            if at < len(guided.token_ids):
                assert guided.token_ids[at] == id_
            else:
                stopping.accept(guided, id_)
            if guided.generated is not None:
                return guided.generated
    except Refusal as refusal:
        return failed(refusal)
    raise AssertionError(f"goes on after {len(text)} characters")


PLAIN = one_of(name=STRING, quantity=INTEGER, items={"type": "array", "items": STRING})


@pytest.mark.parametrize(
    ("schema", "text", "says"),
    [
        (PLAIN, '{"name":"x","quantity":' + "1" * 99, ["number quantity", f"{MOST_DIGITS} digits", "maximum"]),
        (PLAIN, '{"name":"x","quantity":-' + "1" * 99, ["number quantity", f"{MOST_DIGITS} digits", "minimum"]),
        (PLAIN, '{"name":"' + "x" * 9999, ["string name", f"{MOST_CHARS} characters", "maxLength"]),
        (
            PLAIN,
            '{"name":"x","quantity":1,"items":[' + '"a",' * 999,
            ["array items", f"{MOST_ITEMS} elements", "maxItems"],
        ),
        (INTEGER, "1" * 99, ["the number has more than", "maximum"]),
        (NUMBER, "1" * 99, ["the number has more than"]),
        (NUMBER, "0." + "0" * 99, ["no end after its point"]),
        (NUMBER, "1e" + "0" * 99, ["no end after its exponent"]),
        ({"type": "array", "items": {"type": "array", "items": NUMBER}}, "[[1],[" + "1," * 999, ["array [1] has"]),
        (
            {"type": "object", "additionalProperties": STRING},
            "{" + ",".join(f'"n{n}":""' for n in range(999)),
            ["object has more than", "additionalProperties: false"],
        ),
        ({"type": "object", "additionalProperties": STRING}, '{"' + "n" * 9999, ["object has a name of more than"]),
    ],
    ids=lambda one: str(one)[:30],
)
def test_what_passes_a_default_bound_is_a_failure_that_says_how_to_lift_it(
    make_admit: MakeAdmit, schema: dict[str, Any], text: str, says: list[str]
) -> None:
    failure = written(make_admit, schema, text).failure
    assert failure is not None
    assert failure.code is FailureCode.OUTPUT_INCOMPLETE
    for words in [*says, "output.schema"]:
        assert words in failure.message


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (one_of(a={**INTEGER, "maximum": 10**18}), {"a": 10**17}),
        (one_of(a={**INTEGER, "minimum": -(10**18)}), {"a": -(10**17)}),
        (one_of(a={**STRING, "maxLength": 9000}), {"a": "x" * 8000}),
        (one_of(a={**STRING, "pattern": "^x*$"}), {"a": "x" * 8000}),
        (one_of(a={"enum": ["x" * 8000]}), {"a": "x" * 8000}),
        ({"type": "array", "items": INTEGER, "maxItems": 500}, [1] * 400),
        ({"type": "object", "additionalProperties": INTEGER, "maxProperties": 999}, {f"n{n}": 1 for n in range(300)}),
        (one_of(**{f"n{n}": {"type": "boolean"} for n in range(300)}), {f"n{n}": True for n in range(300)}),
        # Up to the bounds themselves nobody has to say anything.
        (one_of(a=INTEGER), {"a": 10**MOST_DIGITS - 1}),
        (one_of(a=STRING), {"a": "x" * MOST_CHARS}),
        ({"type": "array", "items": INTEGER}, [1] * MOST_ITEMS),
    ],
    ids=lambda one: str(one)[:30],
)
def test_what_the_schema_bounds_itself_may_be_larger(
    make_admit: MakeAdmit, schema: dict[str, Any], value: object
) -> None:
    text = json.dumps(value, separators=(",", ":"))
    generated = written(make_admit, schema, text)
    assert generated.failure is None
    assert read_value(generated.text, Json(schema), []) == value


def test_a_number_ends_where_no_reader_could_tell_more() -> None:
    schema = one_of(p={"type": "number", "minimum": 0, "maximum": 1})
    grammar = GRAMMARS.start(Json(schema), [])
    assert grammar is not None
    for id_ in TOKENIZER.encode('{"p":0.'):
        grammar.accept(id_)
    (three,) = TOKENIZER.encode("3")
    digits = ""
    while allowed(grammar)[three]:
        grammar.accept(three)
        digits += "3"
    assert 17 <= len(digits) <= 25
    assert float(f"0.{digits}") == 1 / 3


def test_a_member_named_twice_ends_the_text_at_once(make_admit: MakeAdmit) -> None:
    schema = {"type": "object", "properties": {"o": {"type": "object", "additionalProperties": INTEGER}}}
    failure = written(make_admit, schema, '{"o":{"x":1,"x":2,"x":3,').failure
    assert failure is not None
    assert failure.code is FailureCode.OUTPUT_UNREADABLE
    assert failure.message.startswith('the object o names "x" twice')


def test_what_serving_would_not_end_is_no_answer_to_learn_from() -> None:
    grammar = GRAMMARS.start(Json(INTEGER), [])
    assert grammar is not None
    assert grammar.ids("1" * MOST_DIGITS) is not None
    assert grammar.ids("1" * (MOST_DIGITS + 1)) is None


# max_tokens ran out ---------------------------------------------------------------------------------------------------

LINES = one_of(customer=STRING, lines={"type": "array", "items": one_of(item=STRING, count=INTEGER)})
CLOSED = one_of(a={**STRING, "maxLength": 200}, b={"enum": ["x" * 300]})


@pytest.mark.parametrize(
    ("schema", "text", "says"),
    [
        (LINES, '{"customer":"' + "ha " * 30, "the string customer had 90 characters and no end; give it maxLength"),
        (
            LINES,
            '{"customer":"A","lines":[' + '{"item":"a","count":1},' * 9 + '{"item":"a',
            "the array lines had 10 elements and no end; give it maxItems",
        ),
        (
            LINES,
            '{"customer":"A","lines":[{"item":"' + "ha " * 30,
            "the string lines[0].item had 90 characters and no end",
        ),
        (LINES, '{"customer":"A","lines":[{"item":"a","count":12', "it ended at lines[0].count; raise"),
        (LINES["properties"]["lines"], '[{"item":"a","count":12', "the array had 1 element and no end"),
        (CLOSED, '{"a":"' + "x" * 50, "it ended at a; raise"),
        (CLOSED, "{", "it ended at its beginning; raise"),
        (INTEGER, "123", "the number could have had more digits; raise"),
        (
            {"type": "object", "additionalProperties": True},
            '{"a":1,"b":2,"c":3,"d":4,"e":',
            "the object had 5 members and no end; give it additionalProperties: false",
        ),
        ({"type": "array", "items": {"type": "boolean"}}, "[true,false,tr", "the array had 3 elements and no end"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_where_max_tokens_ran_out_is_named(schema: dict[str, Any], text: str, says: str) -> None:
    message = ran_out(text, Json(schema), 64)
    assert message.startswith("64 tokens were not enough for a complete result: ")
    assert says in message
    assert "generation.max_tokens" in message


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Regex("[a-z]+"), "output.pattern could go on; bound its repetitions"),
        (Number(), "the number could have had more digits"),
        (Choice(["a", "ab"]), "generation.max_tokens"),
        (WordLabels(["N"]), "generation.max_tokens"),
    ],
)
def test_other_forms_say_what_concerns_them(rule: OutputRule, says: str) -> None:
    assert says in ran_out("a", rule, 3)


def test_a_number_of_more_digits_than_are_promised_is_not_cut_to_them() -> None:
    assert read_value("9" * MOST_DIGITS + ".25", Number(), []) == float("9" * MOST_DIGITS + ".25")
    for text in ("1" * (MOST_DIGITS + 1), "-" + "1" * (MOST_DIGITS + 1) + ".5"):
        with pytest.raises(Refusal, match="more than 15 digits") as refused:
            read_value(text, Number(), [])
        assert refused.value.code is FailureCode.OUTPUT_INCOMPLETE
