"""Two endpoints on the same inputs: how often they agree, what changed, and whether for the better. Pure.

Figures and intervals are those of the studio (`training/evaluation`), so that a replay of labelled rows says what
`guideway studio evaluate` says of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from guideway.schemas.output import Boolean, Choice, OutputRule, telling_nothing
from guideway.training.evaluation.evaluator import answer_labels, words_of
from guideway.training.evaluation.intervals import Estimate, few_rows, mean_of, quantile, share_of
from guideway.training.evaluation.metrics import Counts, paired_difference
from guideway.training.evaluation.scoring import Answer, Evaluation, counts_of, evaluation_of
from guideway.training.replays.answers import Asked, Given, Question
from guideway.training.replays.changes import ChangedRow, Shift, changed_of, shifts_of
from guideway.workers.output_parser import read_value

MOST_CHANGED: Final = 200
"""Rows that changed and are told one by one."""


COUNTS: Final = ("characters", "prompt_tokens", "output_tokens", "tokens")
"""Figures that are means of counts; the others are shares from 0 to 1."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of both endpoints on the same rows."""

    name: str
    now: Estimate
    new: Estimate
    difference: Estimate | None = None
    """New minus now, row by row; None where no interval of it is known."""

    @property
    def is_share(self) -> bool:
        """Whether more of it is better, from 0 to 1."""
        return self.name not in COUNTS


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from an event to its reply, with all that was in flight."""

    median_ms: float
    p95_ms: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a replay."""

    rows: int
    labelled: int
    """Rows whose right answer is known."""
    agreement: Estimate | None
    """How far the new results are those of now, on rows that have one now; None where the two cannot be compared."""
    agreement_metric: str = ""
    """How it is measured: as accuracy is, with the result of now as the right one."""
    incomparable: str = ""
    """Why there is no agreement."""
    changed_rows: int = 0
    figures: list[Figure]
    shifts: list[Shift] = []
    """Label of now → label of new, the most frequent first; those that stayed as well."""
    labels: list[str] = []
    """In the order of the output rule; empty where it has none."""
    latency: dict[str, Latency]
    failures: dict[str, dict[str, int]]
    """`now` and `new` → failure code → rows."""
    score: Figure | None = None
    """The studio's main figure on the labelled rows; None without any."""
    verdict: str
    """In a sentence."""
    changed: list[ChangedRow] = []
    """The most telling first, at most `MOST_CHANGED`."""

    def figure(self, name: str) -> Figure | None:
        """The figure of this name."""
        return next((one for one in self.figures if one.name == name), None)


def compare_sides(question: Question, rows: Sequence[Asked], now: Sequence[Given], new: Sequence[Given]) -> Compared:
    """Compare the answers of both endpoints to these rows, in their order. Raises ValueError if some are missing."""
    if not [row.number for row in rows] == [one.number for one in now] == [one.number for one in new]:
        raise ValueError("both endpoints must have answered all rows, in their order")
    figures = [_validity(now, new)]
    score, scored = _scored(question, rows, now, new)
    figures += scored
    figures += [
        _means("characters", now, new, lambda one: len(one.text)),
        _means("prompt_tokens", now, new, lambda one: one.prompt_tokens),
        _means("output_tokens", now, new, lambda one: one.output_tokens),
        _means("tokens", now, new, lambda one: one.prompt_tokens + one.output_tokens),
    ]
    rule = _common_rule(question)
    agreement = _agreement(rule, rows, now, new) if rule is not None else None
    changed = changed_of(question, rule, rows, now, new)
    labelled = sum(row.answer is not None for row in rows)
    return Compared(
        rows=len(rows),
        labelled=labelled,
        agreement=agreement.score if agreement is not None else None,
        agreement_metric=agreement.main if agreement is not None else "",
        incomparable=question.incomparable,
        changed_rows=len(changed),
        figures=figures,
        shifts=shifts_of(now, new) if rule is not None and answer_labels(rule) else [],
        labels=_labels(rule),
        latency={side: _latency(answers) for side, answers in (("now", now), ("new", new))},
        failures={side: _failures(answers) for side, answers in (("now", now), ("new", new))},
        score=score,
        verdict=_verdict(score, f"{len(changed)} of {len(rows)} results differ", labelled),
        changed=changed[:MOST_CHANGED],
    )


# Figures -------------------------------------------------------------------------------------------------------------


def _validity(now: Sequence[Given], new: Sequence[Given]) -> Figure:
    ours, theirs = [not one.failure for one in new], [not one.failure for one in now]
    difference = paired_difference(list(map(Counts.of_item, ours)), list(map(Counts.of_item, theirs)))
    return Figure(name="answered", now=share_of(theirs), new=share_of(ours), difference=difference)


def _means(name: str, now: Sequence[Given], new: Sequence[Given], of: Callable[[Given], float]) -> Figure:
    """Of rows that both have answered: a refusal costs nothing, and would look cheap."""
    both = [(of(a), of(b)) for a, b in zip(now, new, strict=True) if not (a.failure or b.failure)]
    before, after = [a for a, _ in both], [b for _, b in both]
    differences = [b - a for a, b in both]
    return Figure(name=name, now=mean_of(before), new=mean_of(after), difference=mean_of(differences))


def _scored(
    question: Question, rows: Sequence[Asked], now: Sequence[Given], new: Sequence[Given]
) -> tuple[Figure | None, list[Figure]]:
    """The main figure on the labelled rows, and all figures of how right answers are."""
    known = [place for place, row in enumerate(rows) if row.answer is not None]
    try:
        theirs = _evaluation("now", question.now, [rows[i] for i in known], [now[i] for i in known])
        ours = _evaluation("new", question.new, [rows[i] for i in known], [new[i] for i in known])
    except ValueError:
        # The new output rule has no such answers.
        return None, []
    if not known or ours.main != theirs.main:
        return None, []
    difference = paired_difference(ours.counts, theirs.counts)
    score = Figure(name=ours.main, now=theirs.score, new=ours.score, difference=difference)
    others = [name for name in ("macro_f1", "balanced_accuracy", "exact_match") if name in ours.figures]
    return score, [
        score,
        *(
            Figure(name=name, now=a, new=b)
            for name in others
            if name != ours.main and (a := theirs.figures.get(name)) and (b := ours.figures[name])
        ),
    ]


def _evaluation(label: str, rule: OutputRule, rows: Sequence[Asked], given: Sequence[Given]) -> Evaluation:
    """As the studio evaluates. Raises ValueError where a right answer is none of this rule."""
    expected = [read_value(row.answer or "", rule, words_of(rule, row.text)) for row in rows]
    return evaluation_of(label, rule, _answers(rule, rows, expected, given), rows_per_s=0.0, latency=None)


def _answers(rule: OutputRule, rows: Sequence[Asked], expected: Sequence[Any], given: Sequence[Given]) -> list[Answer]:
    labels = answer_labels(rule)
    return [
        Answer(
            text=row.text,
            expected=right,
            given=one.value,
            failure=one.failure,
            counts=counts_of(rule, right, None if one.failure else one.value),
            label_shares=[one.probabilities.get(label, 0.0) for label in labels] if one.probabilities else [],
            prompt_tokens=one.prompt_tokens,
            output_tokens=one.output_tokens,
        )
        for row, right, one in zip(rows, expected, given, strict=True)
    ]


def _common_rule(question: Question) -> OutputRule | None:
    """The rule by which results of both can be compared; None where they cannot be."""
    now, new = telling_nothing(question.now), telling_nothing(question.new)
    if isinstance(now, Choice) and isinstance(new, Choice):
        return Choice(labels=list(dict.fromkeys([*now.labels, *new.labels])))
    return None if question.incomparable else now


def _agreement(
    rule: OutputRule, rows: Sequence[Asked], now: Sequence[Given], new: Sequence[Given]
) -> Evaluation | None:
    """The new results, judged as if those of now were right; None where nothing has a result now."""
    there = [place for place, one in enumerate(now) if not one.failure]
    if not there:
        return None
    expected = [now[i].value for i in there]
    answers = _answers(rule, [rows[i] for i in there], expected, [new[i] for i in there])
    return evaluation_of("agreement", rule, answers, rows_per_s=0.0, latency=None)


def _latency(given: Sequence[Given]) -> Latency:
    took = [one.latency_ms for one in given if not one.failure]
    return Latency(median_ms=quantile(took, 0.5), p95_ms=quantile(took, 0.95))


def _failures(given: Sequence[Given]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in given:
        if one.failure:
            found[one.failure] = found.get(one.failure, 0) + 1
    return found


def _labels(rule: OutputRule | None) -> list[str]:
    return ["true", "false"] if isinstance(rule, Boolean) else answer_labels(rule) if rule else []


def _verdict(score: Figure | None, same: str, labelled: int) -> str:
    if score is None:
        return (
            f"{same}. No right answers are known, so nobody can tell whether they are better: look at the rows that "
            "changed, or replay a file of rows with answers."
        )
    over, name = score.difference or Estimate(0.0, -1.0, 1.0), score.name.replace("_", " ")
    told = (
        f"{name} {score.now.value:.3f} → {score.new.value:.3f} ({over.value:+.3f} [{over.low:+.3f}, {over.high:+.3f}])"
    )
    if over.low > 0:
        return f"The new one is better: {told}; {same}."
    if over.high < 0:
        return f"The new one is worse: {told}; {same}."
    few = few_rows(labelled)
    return f"The two are not told apart: {told}; {same}.{f' {few[0].upper()}{few[1:]}.' if few else ''}"
