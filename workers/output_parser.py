"""Generated text → typed value, by the endpoint's output rule. Pure; the grammar of the row made the text fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.json_schema.places import MOST_DIGITS
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_MOST_LEVELS: Final = 500
"""Of nested arrays and objects in JSON: whoever reads the reply has to get through them as well."""


def read_value(text: str, rule: OutputRule, words: Sequence[str]) -> Any:
    """The value.

    Raises: Refusal `output_unreadable` if the text has its form, but no reader could hold its value, and
    `output_incomplete` if it may have been meant to go on; ValueError if it does not have the form: an engine that
    broke its promise.
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
            return _number(text)
        case WordLabels():
            return _word_labels(text, rule.labels, words)
        case Json():
            return _json(text)
    assert_never(rule)


def _number(text: str) -> float:
    if len(text.lstrip("-").partition(".")[0]) > MOST_DIGITS:
        # The grammar lets one more be written than a number may have, so that none that ends there is one that was cut.
        raise Refusal(
            FailureCode.OUTPUT_INCOMPLETE,
            f"the number has more than {MOST_DIGITS} digits before its point: change the endpoint's instruction, or "
            "let its output be a regex that says how many there may be",
        )
    return float(text) if "." in text else int(text)


def _json(text: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except msgspec.ValidationError:
        # JSON, but a number beyond a float, or an integer of more digits than Python's limit.
        raise _unreadable("a number is too large: give it `minimum` and `maximum` in the schema") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise _unreadable(_TOO_DEEP) from None
    levels, members = _measured(value)
    if levels > _MOST_LEVELS:
        raise _unreadable(_TOO_DEEP)
    # Outside of strings a colon stands once for each member, and of those with one name the decoder keeps one.
    if _STRING.sub("", text).count(":") != members:
        raise _unreadable("an object names a member twice: set `additionalProperties` to false in the schema")
    return value


_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_TOO_DEEP: Final = f"it is nested more than {_MOST_LEVELS} levels deep: bound the nesting in the schema"


def _unreadable(what: str) -> Refusal:
    return Refusal(FailureCode.OUTPUT_UNREADABLE, f"the result has its form, but {what}")


def _measured(value: Any) -> tuple[int, int]:
    """How deep arrays and objects are nested, and how many members the objects have."""
    levels = members = 0
    level = [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        levels += 1
        members += sum(len(one) for one in level if isinstance(one, dict))
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return levels, members


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
