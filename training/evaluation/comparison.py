"""The table of a run: every method beside the bare model, the best text prompt and the present endpoint."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from guideway.training.evaluation.agreement import is_agreement
from guideway.training.evaluation.intervals import Estimate
from guideway.training.evaluation.metrics import paired_difference
from guideway.training.evaluation.scoring import Evaluation
from guideway.training.runs.events import Scored
from guideway.training.runs.task import BARE, PRESENT, REFERENCES


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One subject of the table."""

    label: str
    evaluation: Evaluation
    over: dict[str, Estimate]
    """Reference → the difference to it on the same rows; a reference has none to itself."""

    @property
    def verdict(self) -> str:
        """The difference in words, for people who do not read intervals."""
        if BARE not in self.over:
            return "what it is compared with"
        over = self.over[BARE]
        if is_agreement(self.evaluation.main):
            if over.low > 0 or over.high < 0:
                return f"agrees {'more' if over.low > 0 else 'less'} often than the bare model"
            return "not told apart from the bare model"
        if over.low > 0:
            return "better than the bare model"
        return "worse than the bare model" if over.high < 0 else "not told apart from the bare model"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison on one model size and one set of rows."""

    main: str
    rows: int
    lines: list[Line]
    """References in the order of `REFERENCES`, then the others, the best first."""

    def line(self, label: str) -> Line | None:
        """The line of this label, if there is one."""
        return next((line for line in self.lines if line.label == label), None)


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """The table of evaluations of the same rows in the same order. Raises ValueError without any, or if rows differ."""
    if not evaluations:
        raise ValueError("nothing to compare")
    first = evaluations[0]
    for one in evaluations:
        if (one.main, [a.text for a in one.answers]) != (first.main, [a.text for a in first.answers]):
            raise ValueError(f"{one.label} and {first.label} are not of the same rows")
    references = {one.label: one for one in evaluations if one.label in REFERENCES}
    lines = [
        Line(
            label=one.label,
            evaluation=one,
            over={
                label: paired_difference(one.counts, reference.counts)
                for label, reference in references.items()
                if label != one.label
            },
        )
        for one in evaluations
    ]
    order = {label: place for place, label in enumerate(REFERENCES)}
    lines.sort(key=lambda line: (order.get(line.label, len(order)), -line.evaluation.score.value))
    return Comparison(main=first.main, rows=first.rows, lines=lines)


def scored_events(comparison: Comparison, *, size: str, at: float) -> list[Scored]:
    """The events of a comparison."""
    return [
        Scored(
            at=at,
            size=size,
            method=line.label,
            metric=comparison.main,
            value=line.evaluation.score.value,
            low=line.evaluation.score.low,
            high=line.evaluation.score.high,
            rows=comparison.rows,
            over_bare=_as_list(line.over.get(BARE)),
            over_present=_as_list(line.over.get(PRESENT)),
            softening=line.evaluation.softening,
        )
        for line in comparison.lines
    ]


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A row with different answers of two subjects, one of them right."""

    text: str
    expected: object
    before: object
    after: object
    """None: no result."""
    is_right: bool
    """Whether the later answer is the right one."""


def changed(before: Evaluation, after: Evaluation, *, most: int) -> list[Changed]:
    """Rows that became right and rows that became wrong, in order, at most half of `most` of each."""
    found: dict[bool, list[Changed]] = {True: [], False: []}
    for old, new in zip(before.answers, after.answers, strict=True):
        gain = (new.counts.right - new.counts.wrong - new.counts.missing) - (
            old.counts.right - old.counts.wrong - old.counts.missing
        )
        if gain and len(found[gain > 0]) < most // 2:
            found[gain > 0].append(
                Changed(text=old.text, expected=old.expected, before=old.given, after=new.given, is_right=gain > 0)
            )
    return found[True] + found[False]


def _as_list(estimate: Estimate | None) -> list[float]:
    return [] if estimate is None else [estimate.value, estimate.low, estimate.high]
