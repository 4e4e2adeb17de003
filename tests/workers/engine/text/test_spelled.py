"""Labels and words are written as the model writes them, and come back as they were declared, for every tokenizer."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

import pytest
import torch
from tests.workers.tokenizers import FAMILIES, TEMPLATES, tokenizer_of

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, WordLabels
from guideway.workers.engine.text.grammar import BatchedGrammar, Grammar
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.label_form import Known, OneOf
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.engine.text.spelled import Spelled
from guideway.workers.output_parser import read_value

families = pytest.mark.parametrize("family", FAMILIES)
templates = pytest.mark.parametrize("template", TEMPLATES)
NFD = unicodedata.normalize("NFD", "caf\u00e9")
NFC = unicodedata.normalize("NFC", NFD)


@cache
def grammars_of(family: str, template: str = "chatml") -> tuple[Grammars, PromptLayout]:
    tokenizer = tokenizer_of(family, template)
    layout = PromptLayout(tokenizer)
    ends = {tokenizer.eos_token_id}
    return Grammars(tokenizer, vocabulary=len(tokenizer), eos_ids=ends, layout=layout), layout


def start(grammars: Grammars, rule: OutputRule, words: list[str] | None = None) -> Grammar:
    grammar = grammars.start(rule, words or [])
    assert grammar is not None
    return grammar


def allowed(grammar: Grammar) -> set[int]:
    logits = torch.zeros(1, 1000)
    assert BatchedGrammar([grammar]).mask_(logits) == {}
    return {token for token, value in enumerate(logits[0].tolist()) if value > -math.inf}


def written(grammar: Grammar, ids: list[int]) -> str:
    """What comes back of tokens that the grammar lets through."""
    for id_ in ids:
        assert id_ in allowed(grammar)
        grammar.accept(id_)
    assert grammar.is_complete
    return grammar.text(ids)


@families
@templates
def test_labels_are_written_as_the_model_writes_them_there(family: str, template: str) -> None:
    grammars, layout = grammars_of(family, template)
    labels = ["positive", "negative", "New", "New York"]
    for label in labels:
        ids = layout.answer_ids(label)
        grammar = start(grammars, Choice(labels))
        assert allowed(grammar) == {layout.answer_ids(one)[0] for one in labels}
        assert written(grammar, ids) == label
        assert grammar.ids(label) == ids
        assert grammar.is_ended == (label != "New")


@families
@templates
@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Boolean("yes/no"), "yes"),
        (Number(), "-12.5"),
        (Regex("[a-z]+ [a-z]+"), "brown fox"),
        (Json({"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"]}), '{"a":"x"}'),
    ],
    ids=str,
)
def test_every_form_begins_as_an_answer_begins(family: str, template: str, rule: OutputRule, text: str) -> None:
    """In the tokens of training, which are those of the conversation; the space before an answer is none of it."""
    grammars, _ = grammars_of(family, template)
    grammar = start(grammars, rule)
    ids = grammar.ids(text)
    assert ids is not None
    matched = grammar.fork()
    for id_ in ids:
        matched.accept(id_)
    assert matched.is_complete
    assert matched.text(ids) == text
    assert grammar.derives(text)
    assert grammar.ids("?") is None


@families
@pytest.mark.parametrize("declared", [NFD, NFC, "\ufb01ne", "a\u200bb", "\uac00", "na\u00efve \u00fcber"])
def test_a_label_comes_back_in_the_letters_in_which_it_was_declared(family: str, declared: str) -> None:
    grammars, _ = grammars_of(family)
    rule = Choice([declared, "other"])
    grammar = start(grammars, rule)
    ids = grammar.ids(declared)
    assert ids is not None
    assert read_value(written(grammar, ids), rule, []) == declared


@pytest.mark.parametrize("family", ["byte-level NFC", "unigram always", "unigram first"])
@pytest.mark.parametrize("rule", [Choice([NFD, "x", NFC]), WordLabels([NFC, "x", NFD])], ids=["choice", "words"])
def test_labels_that_the_tokenizer_does_not_tell_apart_are_refused(family: str, rule: OutputRule) -> None:
    grammars, _ = grammars_of(family)
    with pytest.raises(Refusal, match=r"'cafe\\u0301'.*same to this model's tokenizer|'caf\\xe9'.*same") as refused:
        grammars.start(rule, ["a"])
    assert refused.value.code is FailureCode.OUTPUT_UNSATISFIABLE


def test_a_label_that_the_tokenizer_drops_is_refused() -> None:
    with pytest.raises(Refusal, match="is nothing to this model's tokenizer") as refused:
        OneOf(["\u200b", "x"], lambda texts: [[1] if text == "x" else [] for text in texts])
    assert refused.value.code is FailureCode.OUTPUT_UNSATISFIABLE


WORDS = [
    NFD,
    NFC,
    "a\u200bb",
    "\u200b",
    "\ufb01sh",
    "x/y",
    "/",
    "\u65e5\u672c",
    "\U0001f600",
    "a\u2028b",
    "</s>",
    "</s>/N",
]


@families
@templates
def test_words_come_back_as_the_caller_wrote_them(family: str, template: str) -> None:
    grammars, _ = grammars_of(family, template)
    rule = WordLabels(["N", "NN", "V"])
    labels = ["N", "NN", "V", "NN"] * 3
    text = " ".join(f"{word}/{label}" for word, label in zip(WORDS, labels, strict=True))
    grammar = start(grammars, rule, WORDS)
    ids = grammar.ids(text)
    assert ids is not None
    assert len(ids) >= grammar.fewest_tokens > 2 * len(WORDS) - 1
    assert read_value(written(grammar, ids), rule, WORDS) == [list(pair) for pair in zip(WORDS, labels, strict=True)]
    assert not grammar.derives(text + " ")
    assert grammar.text(ids[:-1]) in {"", text.removesuffix("N")}


def test_labels_that_begin_alike_are_followed_on_both_ways() -> None:
    """Where `a` is a label and `ab` is, and what comes after them begins with `b` too."""
    labels = OneOf(["a", "ab"], lambda texts: [[ord(char) for char in text] for text in texts])
    form = Spelled([labels, Known("b!", [98, 33])], [0])
    for text in ("ab!", "abb!"):
        place = form.fork()
        for char in text:
            place.accept(ord(char))
        assert place.is_complete
        assert place.is_ended
        assert place.text([ord(char) for char in text]) == text
    with pytest.raises(Refusal):
        form.fork().accept(33)
