"""Generated text → typed value, by the endpoint's output rule. Pure. The grammar has given the text its form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.json_schema.places import MOST_DIGITS
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_MOST_LEVELS: Final = 500
"""Levels of nested arrays and objects in JSON. The readers of the reply have to parse them too."""


def read_value(text: str, rule: OutputRule, words: Sequence[str]) -> Any:
    """The value that a generated text stands for.

    words: of the request; used for word labels only.

    Raises: Refusal `output_unreadable` if the text has its form but a reader cannot hold its value; Refusal
    `output_incomplete` if the text may have been cut; ValueError if the text does not have its form, which is a fault
    of the engine.
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
        # The grammar allows one extra digit: a number that has it may have been cut, and a shorter one was not.
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
    # Outside of strings there is one colon for each member. If members share a name, the decoder keeps only one.
    if _STRING.sub("", text).count(":") != members:
        raise _unreadable("an object names a member twice: set `additionalProperties` to false in the schema")
    return value


_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_TOO_DEEP: Final = f"it is nested more than {_MOST_LEVELS} levels deep: bound the nesting in the schema"


def _unreadable(what: str) -> Refusal:
    return Refusal(FailureCode.OUTPUT_UNREADABLE, f"the result has its form, but {what}")


def _measured(value: Any) -> tuple[int, int]:
    """(levels of nested arrays and objects, members of all objects)."""
    levels = members = 0
    level = [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        levels += 1
        members += sum(len(one) for one in level if isinstance(one, dict))
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return levels, members


def _word_labels(text: str, labels: Sequence[str], words: Sequence[str]) -> list[list[str]]:
    """(word, label) pairs of `WORD/LABEL WORD/LABEL ...`. A word may contain a slash, because the words are known."""
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
