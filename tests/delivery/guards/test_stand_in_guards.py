"""Which aborted transactions of a fetch count, and how far a reader may go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from guideway.delivery.guards import stand_in_guards
from guideway.delivery.guards.stand_in_guards import DOUBT_S, _Doubt, decided, without_stale


@pytest.mark.parametrize(
    ("first_marker_aborts", "kept"),
    [
        ({7: False}, []),  # ended before the fetch: its producer goes on to commit
        ({7: True}, [(7, 3)]),  # was open at the fetch's offset
        ({}, [(7, 3)]),  # not known yet
        ({8: False}, [(7, 3)]),
    ],
)
def test_a_transaction_from_before_the_fetch(first_marker_aborts: dict[int, bool], kept: list[tuple[int, int]]) -> None:
    assert without_stale([(7, 3)], 10, first_marker_aborts) == kept


def test_a_transaction_aborted_within_the_fetch_stays() -> None:
    assert without_stale([(7, 3), (7, 12)], 10, {7: False}) == [(7, 12)]


def test_reading_stops_before_what_is_in_doubt() -> None:
    assert decided([None, 5, 7, 5], {7}) == 2
    assert decided([5, 5], {7}) == 2
    assert decided([7, 5], {7}) == 0
    assert decided([], {7}) == 0


def test_a_marker_is_waited_for_and_not_for_ever() -> None:
    doubt = _Doubt()
    assert doubt.is_worth_waiting("t", 5, now=100.0)
    assert doubt.is_worth_waiting("t", 5, now=100.0 + DOUBT_S / 2)
    assert doubt.is_worth_waiting("t", 6, now=100.0 + DOUBT_S), "another position"
    assert not doubt.is_worth_waiting("t", 5, now=100.0 + DOUBT_S)


async def test_a_fetch_cancelled_while_it_waits_after_an_empty_answer_just_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = asyncio.Event()

    async def empty(*_: Any) -> bool:
        answered.set()
        return False

    monkeypatch.setattr(stand_in_guards, "_plain_proc_fetch_request", empty)
    monkeypatch.setattr(stand_in_guards, "EMPTY_FETCH_S", 60)
    fetching = asyncio.create_task(stand_in_guards._proc_fetch_request(None, None, 0, None))
    await answered.wait()
    fetching.cancel()
    assert await fetching is False
