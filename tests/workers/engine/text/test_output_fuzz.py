"""Whatever an owner writes as an output rule, and whatever a model writes by it: a value, or a refusal that says why.

Anything else would be answered as our mistake, and as worth another try.
"""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.workers.engine.conftest import tiny_tokenizer

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Choice, Json, Number, OutputRule, Regex, WordLabels
from guideway.workers.engine.text.grammar import Grammar, empty_bitmask
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.output_parser import read_value

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.eos_token_id
GRAMMARS = Grammars(TOKENIZER, vocabulary=300, eos_ids={END})
WORDS = ["a", "x/y", '"', "<|end|>", "日"]

strings = st.sampled_from(
    ["", "a", "日本", '"', "\\", "\n", "\x00", "\x7f", "\ufffd", "e\u0301", "<|end|>", "$ref", "x-guidance"]
)
numbers = st.sampled_from([0, -0.0, 1, -1, 0.1, 3, 1e308, 1e-320, 2**53, 2**63, 2**64 - 1, -(2**63), 10**30])
values = st.recursive(
    numbers | strings | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(strings, inner, max_size=2),
    max_leaves=4,
)
patterns = st.sampled_from(
    [
        *("a*", "(a", "^a$", "[^a]", "(?i)a", "a{9}", "a{0}", "(a|)", r"\b", "x{2,1}", r"[\s\S]*", "\\", ".", "日?"),
        *(r"\p{L}+", "a*+", "(?P<n>a)", r"\xff", "a{99999}", "((a{50}){50}){50}", r"(?-u:\xff)", "(a)\\1", "a(?=b)"),
    ]
)


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(["integer", "number", "string", "array", "object", ["number", "null"], "any", 5]),
        "enum": st.lists(values, max_size=3),
        "const": values,
        "properties": st.dictionaries(strings, inner, max_size=2),
        "required": st.sampled_from([["a"], [], "a", [1]]),
        "items": inner,
        "anyOf": st.lists(inner, max_size=2),
        "allOf": st.lists(inner, max_size=2),
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(patterns, inner, max_size=1),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/gone", "http://x/y", 5]),
        "$defs": st.fixed_dictionaries({"a": inner}),
        "minimum": numbers,
        "maximum": numbers,
        "multipleOf": numbers,
        "minLength": st.sampled_from([0, 5, -1, 10**12]),
        "maxItems": st.sampled_from([0, 1, 10**9]),
        "pattern": patterns,
        "format": st.sampled_from(["date", "uuid", "nonsense", 5]),
        "x-guidance": values,
    }
    return st.fixed_dictionaries({}, optional=keywords)


labels = st.lists(strings.filter(lambda text: text and not re.search(r"\s", text)), min_size=1, max_size=3)
rules = st.one_of(
    st.recursive(values.map(lambda value: {"default": value}), schemas, max_leaves=5).map(Json),
    patterns.map(Regex),
    labels.map(Choice),
    labels.map(WordLabels),
    st.builds(Number, decimals=st.integers(0, 9), negative=st.booleans()),
)


@given(rules, st.integers(0, 99))
@settings(max_examples=200, deadline=None)
@example(Json({"enum": [[-(2**63)], 2**53], "multipleOf": 3}), 0)
@example(Json({"type": "number"}), 3)
@example(Json({}), 7)
def test_a_rule_ends_as_a_value_or_as_a_refusal_of_its_own(rule: OutputRule, seed: int) -> None:
    ends = {FailureCode.OUTPUT_UNSATISFIABLE, FailureCode.OUTPUT_UNREADABLE, FailureCode.OUTPUT_INCOMPLETE}
    assert outcome(rule, seed) in {None, *ends}


def outcome(rule: OutputRule, seed: int) -> FailureCode | None:
    try:
        # As it comes to a worker.
        rule = msgspec.json.decode(msgspec.json.encode(rule), type=OutputRule)
        grammar = GRAMMARS.start(rule, WORDS)
        assert grammar is not None
        if (text := written(grammar, random.Random(seed))) is not None:
            msgspec.json.encode(read_value(text, rule, WORDS))
    except Refusal as refusal:
        return refusal.code
    return None


def written(grammar: Grammar, chance: random.Random) -> str | None:
    """A text of 40 tokens at most; None where that is not enough. What is forced is what the masks allow."""
    ids: list[int] = []
    run: list[int] = []
    for _ in range(40):
        run = run or [*grammar.forced]
        bitmask = empty_bitmask(1, 300)
        grammar.fill(bitmask, 0)
        may = np.unpackbits(bitmask.view(np.uint8), bitorder="little").nonzero()[0].tolist()
        assert may, "a dead end"
        assert not run or may == [run.pop(0)], "forced, and something else may come"
        id_ = END if END in may and chance.random() < 0.3 else chance.choice(may)
        if id_ == END:
            return grammar.text(ids)
        ids.append(id_)
        grammar.accept(id_)
        if grammar.is_ended:
            return grammar.text(ids) if grammar.is_complete else pytest.fail("ended, and not complete")
    return None
