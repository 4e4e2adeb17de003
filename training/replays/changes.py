"""What changes between two endpoints: which label became which, and which rows tell most. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from guideway.schemas.output import OutputRule
from guideway.training.evaluation.evaluator import words_of
from guideway.training.evaluation.scoring import counts_of
from guideway.training.replays.answers import Asked, Given, Question
from guideway.training.replays.distance import distance, is_same
from guideway.workers.output_parser import read_value


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that had one label and have another."""

    before: str | None
    after: str | None
    """None where there is no value; a label may have any name, `none` too."""
    rows: int
    sure_before: float | None = None
    """The mean probability that the endpoint, as it is, gave to `before` on them; None: it tells none."""
    sure_after: float | None = None
    """The mean probability that the new one gave to `after`."""


class ChangedRow(msgspec.Struct, frozen=True, kw_only=True):
    """An input with different results."""

    number: int
    id: str
    text: str
    now: Given
    new: Given
    distance: float
    answer: Any = None
    """The right one, where it is known."""
    became: str = ""
    """`better` or `worse` where the right answer is known; else empty."""


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shifts_of(now: Sequence[Given], new: Sequence[Given]) -> list[Shift]:
    """How often a label of now meets which label of the new one, the most frequent pair first."""
    cells: dict[tuple[str | None, str | None], list[tuple[float | None, float | None]]] = {}
    for a, b in zip(now, new, strict=True):
        before, after = (None if one.failure else _spelled(one.value) for one in (a, b))
        cells.setdefault((before, after), []).append((a.probabilities.get(a.text), b.probabilities.get(b.text)))
    found = [
        Shift(
            before=before,
            after=after,
            rows=len(sure),
            sure_before=_mean([one for one, _ in sure]),
            sure_after=_mean([other for _, other in sure]),
        )
        for (before, after), sure in cells.items()
    ]
    return sorted(found, key=lambda one: (-one.rows, one.before or "", one.after or ""))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None


def changed_of(
    question: Question, rule: OutputRule | None, rows: Sequence[Asked], now: Sequence[Given], new: Sequence[Given]
) -> list[ChangedRow]:
    """The most telling first: those that became worse or better, then by their distance."""
    found = []
    for row, a, b in zip(rows, now, new, strict=True):
        if (a.failure and b.failure) or (not (a.failure or b.failure) and is_same(a.value, b.value)):
            continue
        answer, became = _became(question, row, a, b)
        found.append(
            ChangedRow(
                number=row.number,
                id=row.id,
                text=row.text,
                now=a,
                new=b,
                distance=distance(rule, a, b) if rule is not None else 1.0,
                answer=answer,
                became=became,
            )
        )
    order = {"worse": 0, "better": 1, "": 2}
    return sorted(found, key=lambda one: (order[one.became], -one.distance, one.number))


def _became(question: Question, row: Asked, now: Given, new: Given) -> tuple[Any, str]:
    """(the right answer, `better` | `worse` | empty)"""
    if row.answer is None:
        return None, ""
    try:
        rights = [read_value(row.answer, one, words_of(one, row.text)) for one in (question.now, question.new)]
    except ValueError:
        return row.answer, ""
    gains = [
        counts.right - counts.wrong - counts.missing
        for rule, right, one in zip((question.now, question.new), rights, (now, new), strict=True)
        for counts in [counts_of(rule, right, None if one.failure else one.value)]
    ]
    return rights[0], "" if gains[0] == gains[1] else "better" if gains[1] > gains[0] else "worse"
