"""What live traffic says against a candidate, and how the end of a shadow is told."""

from __future__ import annotations

import pytest
from tests.training.replays.test_comparison import asked, compared, given, question

from guideway.schemas.output import Boolean, Choice
from guideway.training.replays.comparison import Compared, compare_sides
from guideway.training.replays.report import page_of
from guideway.training.replays.shadow import LEAST_ROWS, Outcome, why_not


def of(rows: int, *, unanswered: int = 0, before: int = 0) -> Compared:
    """So many rows, of which the new one, and that of now, leave some without a result."""
    return compared([None] * before + ["glad"] * (rows - before), ["sad"] * (rows - unanswered) + [None] * unanswered)


@pytest.mark.parametrize("rows", [LEAST_ROWS, 2000])
def test_nothing_is_said_against_one_that_answers_as_many_however_they_differ(rows: int) -> None:
    assert not why_not(of(rows))
    assert not why_not(of(rows, before=rows // 10))


@pytest.mark.parametrize(("rows", "unanswered"), [(LEAST_ROWS - 20, 0), (LEAST_ROWS, 2), (2000, 30)])
def test_one_that_may_leave_more_without_a_result_is_not_promoted(rows: int, unanswered: int) -> None:
    assert "may leave 2% more of live traffic without a result" in why_not(of(rows, unanswered=unanswered))


def test_results_that_cannot_be_compared_are_not_promoted() -> None:
    rows = 300
    other = compare_sides(
        question(Choice(["glad", "sad"]), Boolean()),
        asked(rows),
        given("now", ["glad"] * rows),
        given("new", [True] * rows),
    )
    assert "cannot be compared" in why_not(other)
    assert "no result for any of these rows" in why_not(of(rows, before=rows))


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(), ""),
        (Outcome(promoted=True, version=4), "The candidate was promoted: it is version 4 of the endpoint."),
        (Outcome(why="so"), "The candidate was not promoted: so."),
        (Outcome(early="a", why="b"), "It ended early: a. The candidate was not promoted: b."),
        (Outcome(early="a"), "It ended early: a."),
    ],
)
def test_the_end_in_sentences_and_on_the_page(outcome: Outcome, told: str) -> None:
    assert outcome.told == told
    assert told in page_of(question(), of(LEAST_ROWS), outcome.told)
