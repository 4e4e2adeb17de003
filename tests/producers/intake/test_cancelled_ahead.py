"""What tombstones cancel that are not reached yet, by literal times."""

from __future__ import annotations

from guideway.producers.intake.cancelled_ahead import CancelledAhead
from guideway.schemas.services.cancellation import HELD_S

HOUR_MS = HELD_S * 1000


def test_an_id_is_cancelled_for_events_up_to_an_hour_after() -> None:
    ahead = CancelledAhead()
    ahead.note("a", "t", "x", 5_000)
    assert ahead.cancels("a", "t", "x", 0), "however long ago it was written"
    assert ahead.cancels("a", "t", "x", 5_000 + HOUR_MS - 1)
    assert not ahead.cancels("a", "t", "x", 5_000 + HOUR_MS)
    assert not ahead.cancels("a", "t", "y", 0)
    assert not ahead.cancels("a", "other", "x", 0)
    assert not ahead.cancels("b", "t", "x", 0)


def test_of_several_tombstones_the_latest_counts() -> None:
    ahead = CancelledAhead()
    for at_ms in (7_000, 9_000, 8_000):
        ahead.note("a", "t", "x", at_ms)
    assert ahead.cancels("a", "t", "x", 9_000 + HOUR_MS - 1)


def test_who_cancels_much_pushes_out_its_own() -> None:
    ahead = CancelledAhead(limit=3)
    ahead.note("b", "t", "x", 0)
    for number in range(5):
        ahead.note("a", "t", f"x{number}", number)
    assert [number for number in range(5) if ahead.cancels("a", "t", f"x{number}", 0)] == [2, 3, 4]
    assert ahead.cancels("b", "t", "x", 0)


def test_a_topic_that_is_read_is_forgotten() -> None:
    ahead = CancelledAhead()
    ahead.note("a", "t", "x", 0)
    ahead.note("a", "u", "x", 0)
    ahead.forget("a", "t")
    ahead.forget("c", "t")
    assert not ahead.cancels("a", "t", "x", 0)
    assert ahead.cancels("a", "u", "x", 0)
