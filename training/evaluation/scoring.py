"""Answers → figures, by the output rule: the content of evaluation.json. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels, weighs
from guideway.training.evaluation.intervals import Estimate, mean_of, share_of
from guideway.training.evaluation.metrics import (
    Confusion,
    Counts,
    Reliability,
    balanced_accuracy,
    confusion,
    json_counts,
    macro_f1,
    reliability,
    score,
)
from guideway.training.evaluation.softening import softening
from guideway.training.runs.events import Softening

MOST_CONFUSED_LABELS: Final = 30
"""There is no confusion matrix of more labels: nobody could read it."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one row."""

    text: str
    expected: Any
    given: Any
    failure: str = ""
    """The failure code if there is no value; else empty."""
    counts: Counts
    log_probability: float | None = None
    """The natural logarithm of the text's probability among the texts that the grammar allows."""
    label_shares: list[float] = []
    """The probability of each label among all labels, in the order of the output rule. Empty for other rules, and if
    two labels begin with the same token, unless replies tell the probabilities."""
    prompt_tokens: int
    """Tokens of the prompt, virtual ones included."""
    output_tokens: int

    @property
    def is_right(self) -> bool:
        """Whether the whole answer is right."""
        return not (self.counts.wrong or self.counts.missing)

    @property
    def confidence(self) -> float | None:
        """The text's probability, 0 to 1; None if it is unknown."""
        return None if self.log_probability is None else min(1.0, math.exp(self.log_probability))


class Latency(msgspec.Struct, frozen=True):
    """Seconds from a request to its result in the engine, without other requests. Marshalling and Kafka come on top."""

    rows: int
    median_ms: float
    p95_ms: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The figures and answers of one subject on one set of rows."""

    label: str
    rows: int
    main: str
    """The figure by which subjects are compared."""
    figures: dict[str, Estimate]
    confusion: Confusion | None = None
    calibration: Reliability | None = None
    softening: Softening | None = None
    """The temperature of its labels' probabilities, where replies tell them."""
    latency: Latency | None = None
    rows_per_s: float
    """Rows per second with all rows at once, in micro-batches."""
    failures: dict[str, int] = {}
    """Failure code → rows."""
    answers: list[Answer]

    @property
    def score(self) -> Estimate:
        """The main figure."""
        return self.figures[self.main]

    @property
    def counts(self) -> list[Counts]:
        """The counts of each row, for `metrics.paired_difference`."""
        return [answer.counts for answer in self.answers]


def main_figure(rule: OutputRule) -> str:
    """The name of the figure that compares answers of this rule."""
    match rule:
        case Choice() | Boolean():
            return "accuracy"
        case Number() | Regex() | Text():
            return "exact_match"
        case WordLabels():
            return "word_accuracy"
        case Json():
            return "field_f1"
    assert_never(rule)


def counts_of(rule: OutputRule, expected: Any, given: Any) -> Counts:
    """How many items of the answer are right, wrong and missing. given: None without an answer."""
    match rule:
        case Json():
            found = json_counts(expected, given)
            # No answer is no wrong field.
            return Counts(0, 0, found.missing) if given is None else found
        case WordLabels():
            right = sum(one == other for one, other in zip(expected, given or (), strict=False))
            wrong = len(expected) - right
            return Counts(right, wrong, wrong)
        case Text():
            return Counts.of_item(given is not None and _spaced(expected) == _spaced(given))
        case Choice() | Boolean() | Number() | Regex():
            return Counts.of_item(given is not None and expected == given)
    assert_never(rule)


def evaluation_of(
    label: str, rule: OutputRule, answers: Sequence[Answer], *, rows_per_s: float, latency: Latency | None
) -> Evaluation:
    """The evaluation of `answers` under the output rule `rule`."""
    main = main_figure(rule)
    counts = [answer.counts for answer in answers]
    figures = {main: score(counts)}
    made_confusion: Confusion | None = None
    if (labels := _labels(rule)) is not None:
        expected = [_spelled(answer.expected) for answer in answers]
        given = [None if answer.failure else _spelled(answer.given) for answer in answers]
        figures["macro_f1"] = macro_f1(labels, expected, given)
        figures["balanced_accuracy"] = balanced_accuracy(labels, expected, given)
        if len(labels) <= MOST_CONFUSED_LABELS:
            made_confusion = confusion(labels, expected, given)
    if isinstance(rule, Json | WordLabels):
        figures["exact_match"] = share_of([answer.is_right for answer in answers])
    figures["answered" if not isinstance(rule, Json) else "json_valid"] = share_of([not a.failure for a in answers])
    figures["prompt_tokens"] = mean_of([answer.prompt_tokens for answer in answers])
    figures["output_tokens"] = mean_of([answer.output_tokens for answer in answers])
    sure = [(answer.confidence, answer.is_right) for answer in answers if answer.confidence is not None]
    made_calibration = reliability([c for c, _ in sure if c is not None], [r for _, r in sure]) if sure else None
    weighed = [one for one in answers if one.label_shares] if weighs(rule) else []
    made_softening = softening(
        [one.label_shares for one in weighed],
        [_number(rule, one.expected) for one in weighed],
        temperature=rule.label_temperature if isinstance(rule, Choice | Boolean) else 1.0,
    )
    failures: dict[str, int] = {}
    for answer in answers:
        if answer.failure:
            failures[answer.failure] = failures.get(answer.failure, 0) + 1
    return Evaluation(
        label=label,
        rows=len(answers),
        main=main,
        figures=figures,
        confusion=made_confusion,
        calibration=made_calibration,
        softening=made_softening,
        latency=latency,
        rows_per_s=rows_per_s,
        failures=failures,
        answers=list(answers),
    )


def joined(label: str, rule: OutputRule, parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of the rows of several evaluations."""
    seconds = sum(one.rows / one.rows_per_s for one in parts if one.rows_per_s)
    answers = [answer for one in parts for answer in one.answers]
    speed = len(answers) / seconds if seconds else 0.0
    return evaluation_of(label, rule, answers, rows_per_s=speed, latency=parts[0].latency)


def _labels(rule: OutputRule) -> list[str] | None:
    match rule:
        case Choice(labels):
            return list(labels)
        case Boolean():
            return ["true", "false"]
    return None


def _number(rule: OutputRule, expected: Any) -> int:
    """The place of the expected label among `label_shares`."""
    return rule.labels.index(expected) if isinstance(rule, Choice) else 0 if expected else 1


def _spelled(value: Any) -> str:
    """A label or boolean as `_labels` spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spaced(text: str) -> str:
    """The text with single spaces: the amount of white space does not count."""
    return " ".join(text.split())
