"""Generated text → typed value, by the endpoint's output rule. Pure; the grammar of the row made the text fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels


def read_value(text: str, rule: OutputRule, words: Sequence[str]) -> Any:
    """The value. Raises ValueError if the text does not have the form: an engine that broke its promise."""
    match rule:
        case Text() | Regex():
            return text
        case Choice():
            if text not in rule.labels:
                raise ValueError("not one of the labels")
            return text
        case Boolean():
            true, false = rule.spelling.split("/")
            if text not in {true, false}:
                raise ValueError(f"neither {true} nor {false}")
            return text == true
        case Number():
            return float(text) if "." in text else int(text)
        case WordLabels():
            return _word_labels(text, rule.labels, words)
        case Json():
            try:
                return msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise ValueError(str(error)) from None
    assert_never(rule)


def _word_labels(text: str, labels: Sequence[str], words: Sequence[str]) -> list[list[str]]:
    """`WORD/LABEL WORD/LABEL ...`: the words are known, so a word may itself hold a slash."""
    pairs = []
    rest = text
    for index, word in enumerate(words):
        lead = f"{word}/" if index == 0 else f" {word}/"
        if not rest.startswith(lead):
            raise ValueError(f"word {index + 1} is not where it should be")
        label, space, after = rest[len(lead) :].partition(" ")
        if label not in labels:
            raise ValueError(f"word {index + 1} has no label of the list")
        pairs.append([word, label])
        rest = space + after
    if rest:
        raise ValueError("more words than there are")
    return pairs
