"""JSON numbers beyond a float of 64 bits are not written, and nothing else is forbidden by it."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.workers.engine.conftest import tiny_tokenizer
from tests.workers.engine.text.test_grammars import allowed

from guideway.schemas.output import Json
from guideway.workers.engine.text.grammar import Grammar
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.json_grammar import Digits, End, Habits, Place
from guideway.workers.engine.text.json_text import JsonText

TOKENIZER = tiny_tokenizer()
GRAMMARS = Grammars(TOKENIZER, vocabulary=300, eos_ids={TOKENIZER.eos_token_id})


def begun(text: str, schema: object = None) -> Grammar:
    grammar = GRAMMARS.start(Json({} if schema is None else {"type": schema}), [])
    assert grammar is not None
    for id_ in TOKENIZER.encode(text):
        assert allowed(grammar)[id_], f"{text} is forbidden"
        grammar.accept(id_)
    return grammar


def digits_after(text: str) -> str:
    """Those that may come next."""
    may = allowed(begun(text))
    return "".join(digit for digit in "0123456789" if may[TOKENIZER.encode(digit)[0]])


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("1e", "0123456789"),
        ("1e3", "0123456789"),
        ("1e30", "01234567"),
        ("1e307", ""),
        ("1e31", ""),
        ("1E+40", ""),
        ("-1.5e40", ""),
        ("12e30", "0123456"),
        ("1e0000030", "01234567"),
        ("1e-40", "0123456789"),
        ('{"1e40":[1,"9e99', "0123456789"),
        ('{"\\"":1e31', ""),
        ('["1e40",1', "0123456789"),
        ("1.5", "0123456789"),
    ],
)
def test_an_exponent_goes_as_far_as_a_float(text: str, digits: str) -> None:
    assert digits_after(text) == digits


def test_no_exponent_makes_a_number_larger_that_is_too_large_already() -> None:
    text = JsonText()
    text.see(b"1" * 400 + b"e")
    assert text.exponent == (0, 0)


@pytest.mark.parametrize(
    "text", ["1e307", "-9.99e+307", "1e00000000000000000000001", "1e-400", '["1e400"]', "[1e40,1e41]"]
)
def test_what_a_float_holds_can_be_written(text: str) -> None:
    assert begun(text).is_complete


def test_a_number_that_went_as_far_as_it_may_can_end() -> None:
    may = allowed(begun("[1e307"))
    assert may[TOKENIZER.encode("]")[0]]
    assert may[TOKENIZER.encode(",")[0]]
    assert allowed(begun("1e307"))[TOKENIZER.eos_token_id]


def test_whatever_is_drawn_can_be_read() -> None:
    chance = random.Random(0)
    for _ in range(300):
        grammar, ids = begun("1e", "number"), TOKENIZER.encode("1e")
        for _ in range(12):
            may = [id_ for id_, one in enumerate(allowed(grammar)) if one and id_ != TOKENIZER.eos_token_id]
            if not may:
                break
            ids.append(chance.choice(may))
            grammar.accept(ids[-1])
        if grammar.is_complete:
            msgspec.json.decode(grammar.text(ids))


def test_tokens_of_several_digits_are_looked_at_as_a_whole() -> None:
    tokens = [b"4", b"40", b"400", b"308", b"+400", b"007", b"3,", b"e400"]
    kept = Digits(lambda ids: tokens[ids[0]], vocabulary=len(tokens)).kept(0, 307)
    bits = np.unpackbits(kept.view(np.uint8), bitorder="little")[: len(tokens)].tolist()
    assert bits == [1, 1, 0, 0, 0, 1, 1, 1]


@given(st.recursive(st.text() | st.integers(0, 99), st.lists), st.integers(1, 5))
def test_where_a_text_is_cut_makes_no_difference(value: object, size: int) -> None:
    text = msgspec.json.encode(value) + b",1e4"
    whole, cut = JsonText(), JsonText()
    whole.see(text)
    for at in range(0, len(text), size):
        cut.see(text[at : at + size])
    assert whole.exponent == cut.exponent == (4, 307)


def test_habits_are_those_of_the_last_texts() -> None:
    common: dict[bytes, int] = {}
    habits, others = Habits(common), Habits(common)
    here, there = Place(1, 2), Place(1, 3)
    before = habits.probability(here)
    habits.hear(here, ended=True)
    assert habits.probability(here) > habits.probability(there) == before > 0
    for _ in range(200):
        habits.hear(here, ended=False)
    assert habits.probability(here) < 0.02
    for _ in range(64):
        habits.hear(here, ended=True)
    assert habits.probability(here) > 0.4, "what was long ago counts less"
    habits.keep(here, End(b'","age":', [5, 6]))
    assert habits.end(there) == End(b'","age":', [5, 6])
    habits.wrote(b'","age":', 7)
    assert habits.end(there) is None, "it may be divided in another way"
    assert habits.token(b'","other') == others.token(b'","') == 7
    others.wrote(b'","x', 8)
    assert habits.token(b'","age":') == 7, "its own texts come first"
    assert habits.token(b'":') is None


def test_habits_keep_no_letters_and_do_not_grow_without_end() -> None:
    common: dict[bytes, int] = {}
    habits = Habits(common)
    habits.wrote(b"secret", 1)
    habits.wrote(b'"secret', 2)
    assert [*common] == [b'"']
    for i in range(10_000):
        habits.hear(Place(i, 0), ended=True)
        habits.keep(Place(i, 0), End(b"", ()))
        habits.wrote("".join('{}[]:,"'[i // 7**k % 7] for k in range(5)).encode(), i)
    assert max(len(habits._seen), len(habits._ends), len(common)) <= 128
