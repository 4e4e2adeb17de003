"""What type of result an endpoint promises. The worker makes the model keep the promise by a grammar per row."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

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
