"""Output rules: the type of result that an endpoint promises. A grammar for each row makes the model keep it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.json_schema.bounds import brief
from guideway.schemas.json_schema.keywords import check_keywords
from guideway.schemas.json_schema.values import check_pattern, check_values
from guideway.schemas.kinds.targets import TargetName

GRAMMAR_OPTIONS: Final = "x-guidance"
"""With this key a JSON Schema would change the grammar library's own settings, such as separators."""
_MOST_LEVELS: Final = 100
_EXACT: Final = 2**53
"""Larger integers are rounded: the grammar library has floats of 64 bits."""
_LEAST: Final = -(2**63) + 2**20
"""A `maximum` below this overflows the grammar library's stack and ends the process."""
_MOST_MULTIPLE: Final = 100_000
"""The largest `multipleOf`, without its point: with a million the grammar takes half a minute."""
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""The keys below these keywords are names, not keywords."""

MOST_WEIGHED: Final = 256
"""The most labels whose probabilities are told. Each may take tokens of its own to compute."""
_MOST_TOLD: Final = 16_384
"""The most log-probabilities that one reply tells, so that it can be sent."""

Label = Annotated[str, Meta(min_length=1, max_length=100)]
Confidence = Annotated[float, Meta(gt=0, lt=1)]
COLDEST_LABELS: Final = 0.05
HOTTEST_LABELS: Final = 20.0
LabelTemperature = Annotated[float, Meta(ge=COLDEST_LABELS, le=HOTTEST_LABELS)]


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"):
    pass


class Text(_Rule, frozen=True, tag="text"):
    """Free text; the value is a string."""

    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Tells the log-probability of each token, and so many of the likeliest tokens in its place."""


class DoubtfulTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a reply with a doubtful value goes as well."""

    target: TargetName
    """On whose reply topic the reply appears too, as in `targets`."""


Below = Literal["failed"] | DoubtfulTarget | None
"""What becomes of a value that is less probable than `min_confidence`."""


class Choice(_Rule, frozen=True, tag="choice"):
    """One of the labels; the value is that label."""

    labels: Annotated[list[Label], Meta(min_length=1, max_length=1000)]
    """No two may be the same letters in Unicode."""
    probabilities: bool = False
    """Tells the probability of each of up to 256 labels. At temperature 0 the value is then the most probable label."""
    min_confidence: Confidence | None = None
    """The least probability of a value; it needs `probabilities`. A value below it is doubtful."""
    below: Below = None
    """Of a doubtful value: `null` tells null in its place, `failed` fails with `not_confident`, a target keeps it and
    gets the reply as well."""
    label_temperature: LabelTemperature = 1.0
    """Each probability p is told as p^(1/this), made to sum to 1 again; it changes no value. The studio fits it."""

    def __post_init__(self) -> None:
        _check_weighing(self)


class Boolean(_Rule, frozen=True, tag="boolean"):
    """True or false in the given spelling; the value is a JSON boolean, the text keeps the spelling."""

    spelling: Literal["true/false", "yes/no", "1/0"] = "true/false"
    """What the model writes."""
    probabilities: bool = False
    """Tells the probability of both. At temperature 0 the value is then the more probable one."""
    min_confidence: Confidence | None = None
    """The least probability of a value; it needs `probabilities`. A value below it is doubtful."""
    below: Below = None
    """Of a doubtful value, as for a choice."""
    label_temperature: LabelTemperature = 1.0
    """As for a choice."""

    def __post_init__(self) -> None:
        _check_weighing(self)


class Number(_Rule, frozen=True, tag="number"):
    """A decimal number without exponent; at most 15 digits before and `decimals` after the point."""

    decimals: Annotated[int, Meta(ge=0, le=9)] = 6
    """Digits after the point, at most; 0: integers."""
    negative: bool = True
    """Whether it may be below zero."""


class WordLabels(_Rule, frozen=True, tag="word_labels"):
    """One label for each word of the input field `words_from`; the value is a list of [word, label] pairs."""

    labels: Annotated[list[Label], Meta(min_length=1, max_length=200)]
    """Without white space."""
    words_from: str = "text"
    """The input field, a string, whose words are labelled."""

    def __post_init__(self) -> None:
        for label in self.labels:
            if re.search(r"\s", label):
                raise ValueError(f"label {label!r} holds white space: a word's label must be one word")


class Json(_Rule, frozen=True, tag="json"):
    """JSON that satisfies the JSON Schema; the value is the parsed JSON."""

    schema: dict[str, Any]
    """A JSON Schema. Its objects have only the properties that it names, unless it says `additionalProperties`."""


class Regex(_Rule, frozen=True, tag="regex"):
    """Text that matches the whole regular expression (RE2-like: no back-references, no look-around)."""

    pattern: Annotated[str, Meta(min_length=1, max_length=2000)]
    """The expression, without slashes around it."""


OutputRule = Text | Choice | Boolean | Number | WordLabels | Json | Regex


def _check_weighing(rule: Choice | Boolean) -> None:
    """Raises ValueError, which says what to change."""
    if rule.below is not None and rule.min_confidence is None:
        raise ValueError("`below` says what becomes of doubtful values: add `min_confidence`, or leave it out")
    if rule.min_confidence is not None and not rule.probabilities:
        raise ValueError("min_confidence compares the value's probability: add `probabilities: true`")
    if rule.label_temperature != 1 and not rule.probabilities:
        raise ValueError("label_temperature is of probabilities: add `probabilities: true`, or leave it out")
    if rule.probabilities and isinstance(rule, Choice) and len(rule.labels) > MOST_WEIGHED:
        raise ValueError(
            f"probabilities are told of at most {MOST_WEIGHED} labels, and there are {len(rule.labels)}: leave out "
            "`probabilities`, or choose in two steps, each with fewer labels"
        )


def weighs(rule: OutputRule) -> bool:
    """Whether replies tell the probability of each label."""
    return isinstance(rule, Choice | Boolean) and rule.probabilities


def doubtful_target(rule: OutputRule) -> str | None:
    """The endpoint whose reply topic gets replies with doubtful values as well, if the rule names one."""
    below = rule.below if isinstance(rule, Choice | Boolean) else None
    return below.target if isinstance(below, DoubtfulTarget) else None


def telling_nothing(rule: OutputRule) -> OutputRule:
    """The rule without what replies tell beside the value, and without what becomes of doubtful values."""
    match rule:
        case Choice() | Boolean():
            return msgspec.structs.replace(
                rule, probabilities=False, min_confidence=None, below=None, label_temperature=1.0
            )
        case Text():
            return Text()
    return rule


def telling_as(rule: OutputRule, other: OutputRule) -> OutputRule:
    """`rule`; where it tells nothing, and the two are otherwise the same, with what `other` tells.

    The temperature of its probabilities stays that of `rule`: another guidance has another one.
    """
    if rule != telling_nothing(other):
        return rule
    return msgspec.structs.replace(other, label_temperature=1.0) if isinstance(other, Choice | Boolean) else other


def check_told(rule: OutputRule, *, max_tokens: int, samples: int) -> None:
    """Check that what a reply tells of its tokens can be sent. Raises: ValueError, which says what to change."""
    if isinstance(rule, Text) and rule.logprobs is not None:
        told = max_tokens * samples * (1 + rule.logprobs)
        if told > _MOST_TOLD:
            raise ValueError(
                f"output.logprobs would tell up to {told:,} log-probabilities (max_tokens {max_tokens} times samples "
                f"{samples} times {1 + rule.logprobs}), and at most {_MOST_TOLD:,} can be told: lower one of them"
            )


def check_output_rule(rule: OutputRule, stop: Iterable[str]) -> None:
    """Check that an endpoint with this rule and these stop strings can keep its promise.

    Raises: ValueError, which says what to change.
    """
    if isinstance(rule, Json):
        if GRAMMAR_OPTIONS in rule.schema:
            raise ValueError(f"output.schema has {GRAMMAR_OPTIONS!r}, which is no part of JSON Schema: remove it")
        check_schema(rule.schema)
        check_keywords(rule.schema)
        check_values(rule.schema)
    if isinstance(rule, Regex):
        check_pattern("output.pattern", rule.pattern)
    if isinstance(rule, Choice | WordLabels):
        _check_labels(rule.labels)
    if (one := cutting(rule, stop)) is not None:
        raise ValueError(f"generation.stop has {one!r}, which would cut results of this output rule: remove it")


def cutting(rule: OutputRule, stop: Iterable[str]) -> str | None:
    """The first of these stop strings that would cut results of this rule, as far as these are known beforehand."""
    for one in stop:
        if any(one in text for text in _texts(rule)) or (isinstance(rule, Number) and set(one) <= set("-.0123456789")):
            return one
    return None


def _check_labels(labels: Iterable[str]) -> None:
    """Refuse labels that a tokenizer may not tell apart: many convert letters to one of Unicode's forms."""
    known: dict[str, str] = {}
    for label in labels:
        if known.get(unicodedata.normalize("NFC", label)) == label:
            raise ValueError(f"label {label!r} of the output is there twice: keep one")
        same = known.setdefault(unicodedata.normalize("NFC", label), label)
        if same != label:
            raise ValueError(f"labels {same!a} and {label!a} of the output are the same letters: keep one")


def _texts(rule: OutputRule) -> list[str]:
    """The texts that results consist of, if they are a short list."""
    match rule:
        case Choice(labels):
            return list(labels)
        case Boolean(spelling):
            return spelling.split("/")
        case WordLabels(labels):
            return [f"/{label} " for label in labels]
    return []


def check_schema(part: Any, keyword: str = "", level: int = 0) -> None:
    """Check that a part of a JSON Schema, below `keyword`, can be given to the grammar library.

    Raises: ValueError, which says what to change.
    """
    if level > _MOST_LEVELS:
        raise ValueError(f"output.schema is nested more than {_MOST_LEVELS} levels deep: flatten it, or use $ref")
    if isinstance(part, dict):
        for name, inner in part.items():
            inside = keyword if keyword in {"const", "enum"} else "" if keyword in _NAMED else name
            check_schema(inner, inside, level + 1)
    elif isinstance(part, list):
        for inner in part:
            check_schema(inner, keyword, level + 1)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        _check_number(part, keyword)


def _check_number(number: float, keyword: str) -> None:
    if keyword in {"const", "enum"} and isinstance(number, int) and abs(number) > _EXACT:
        raise ValueError(
            f"output.schema has {brief(number)} under {keyword}, which readers of JSON round: use a string"
        )
    if keyword in {"maximum", "exclusiveMaximum"} and number < _LEAST:
        raise ValueError(f"output.schema has {keyword} {brief(number)}: raise it, or leave it out")
    if keyword == "multipleOf":
        whole, _, fraction = f"{Decimal(str(abs(number))):f}".partition(".")
        if int(whole + fraction.rstrip("0")) > _MOST_MULTIPLE:
            raise ValueError(
                f"output.schema has multipleOf {brief(number)}: without its point it may be {_MOST_MULTIPLE} at most"
            )
