"""What type of result an endpoint promises. The worker makes the model keep the promise by a grammar per row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

GRAMMAR_OPTIONS: Final = "x-guidance"
"""A key by which a JSON Schema would change the grammar library's own settings: separators, what it overlooks."""

Label = Annotated[str, Meta(min_length=1, max_length=100)]


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"):
    pass


class Text(_Rule, frozen=True, tag="text"):
    """Free text; the value is a string."""


class Choice(_Rule, frozen=True, tag="choice"):
    """One of the labels; the value is that label."""

    labels: Annotated[list[Label], Meta(min_length=1, max_length=1000)]


class Boolean(_Rule, frozen=True, tag="boolean"):
    """True or false, spelled as asked; the value is a JSON boolean, the text keeps the spelling."""

    spelling: Literal["true/false", "yes/no", "1/0"] = "true/false"


class Number(_Rule, frozen=True, tag="number"):
    """A decimal number without exponent; at most 15 digits before and `decimals` after the point."""

    decimals: Annotated[int, Meta(ge=0, le=9)] = 6
    negative: bool = True


class WordLabels(_Rule, frozen=True, tag="word_labels"):
    """One label for each word of the input field `words_from`; the value is a list of [word, label] pairs."""

    labels: Annotated[list[Label], Meta(min_length=1, max_length=200)]
    words_from: str = "text"

    def __post_init__(self) -> None:
        for label in self.labels:
            if re.search(r"\s", label):
                raise ValueError(f"label {label!r} holds white space: a word's label must be one word")


class Json(_Rule, frozen=True, tag="json"):
    """JSON that satisfies the JSON Schema; the value is the parsed JSON."""

    schema: dict[str, Any]


class Regex(_Rule, frozen=True, tag="regex"):
    """Text that matches the whole regular expression (RE2-like: no back-references, no look-around)."""

    pattern: Annotated[str, Meta(min_length=1, max_length=2000)]


OutputRule = Text | Choice | Boolean | Number | WordLabels | Json | Regex


def check(rule: OutputRule, stop: Iterable[str]) -> None:
    """Whether an endpoint with this rule and these stop strings keeps its promise, as far as it can be told beforehand.

    Raises: ValueError, which says what to change.
    """
    if isinstance(rule, Json) and GRAMMAR_OPTIONS in rule.schema:
        raise ValueError(f"output.schema has {GRAMMAR_OPTIONS!r}, which is no part of JSON Schema: remove it")
    if isinstance(rule, Choice | WordLabels):
        _check_labels(rule.labels)
    for one in stop:
        if any(one in text for text in _texts(rule)) or (isinstance(rule, Number) and set(one) <= set("-.0123456789")):
            raise ValueError(f"generation.stop has {one!r}, which would cut results of this output rule: remove it")


def _check_labels(labels: Iterable[str]) -> None:
    """Whether any tokenizer could tell them apart: many make one form of letters that Unicode has in several."""
    known: dict[str, str] = {}
    for label in labels:
        same = known.setdefault(unicodedata.normalize("NFC", label), label)
        if same != label:
            raise ValueError(f"labels {same!a} and {label!a} of the output are the same letters: keep one")


def _texts(rule: OutputRule) -> list[str]:
    """What results are made of, where that is a short list."""
    match rule:
        case Choice(labels):
            return list(labels)
        case Boolean(spelling):
            return spelling.split("/")
        case WordLabels(labels):
            return [f"/{label} " for label in labels]
    return []
