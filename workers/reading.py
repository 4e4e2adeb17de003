"""Generated text → typed value, by the endpoint's output rule. Pure; the grammar of the row made the text fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_MOST_LEVELS: Final = 500
"""Of nested arrays and objects in JSON: whoever reads the reply has to get through them as well."""


def read_value(text: str, rule: OutputRule, words: Sequence[str]) -> Any:
    """The value.

    Raises: Refusal `output_out_of_range` if the text has its form, but no reader could hold its value; ValueError if it
    does not have the form: an engine that broke its promise.
    """
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
            return _json(text)
    assert_never(rule)


def _json(text: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except msgspec.ValidationError:
        # JSON, but a number beyond a float, or an integer of more digits than Python's limit.
        raise _out_of_range("a number is too large: give it `minimum` and `maximum` in the schema") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise _out_of_range(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > _MOST_LEVELS and _is_deep(value):
        raise _out_of_range(_TOO_DEEP)
    return value


_TOO_DEEP: Final = f"it is nested more than {_MOST_LEVELS} levels deep: bound the nesting in the schema"


def _out_of_range(what: str) -> Refusal:
    return Refusal(FailureCode.OUTPUT_OUT_OF_RANGE, f"the result has its form, but {what}")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_LEVELS + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


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
