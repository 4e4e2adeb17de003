"""Calls wait for the lane of their endpoint, and for no other."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import ExitStack, suppress

from guideway.producers.intake.call_gate import FORGET_S, CallGate
from guideway.producers.intake.shares import Party

FULL, FREE = Party("shop", "gw.infer.small.batch.v1"), Party("shop", "gw.infer.small.interactive.v1")


class Lanes:
    """So much may be in hand, by party."""

    def __init__(self, **room: int) -> None:
        self.room = {FULL: room.get("full", 0), FREE: room.get("free", 0)}

    def __call__(self, party: Hashable) -> int:
        assert isinstance(party, Party)
        return self.room[party]


async def test_a_full_lane_holds_up_its_own_calls_only() -> None:
    gate = CallGate()
    gate.round(Lanes(full=2, free=5), 0.0)
    assert [gate.lets_in(FULL, 0.0) for _ in range(3)] == [True, True, False]
    assert gate.lets_in(FREE, 0.0)
    assert gate.begun(FULL) == 2
    gate.left(FULL)
    assert gate.lets_in(FULL, 0.0), "one was published"


async def test_a_call_that_ends_as_it_is_let_in_takes_no_room() -> None:
    gate, lanes = CallGate(), Lanes()
    gate.round(lanes, 0.0)
    with suppress(asyncio.CancelledError), gate.waiting(FULL) as future:
        lanes.room[FULL] = 2
        gate.round(lanes, 0.0)
        assert future.done()
        assert gate.begun(FULL) == 1
        raise asyncio.CancelledError
    assert gate.begun(FULL) == 0


async def test_a_call_that_has_ended_and_is_not_gone_yet_takes_no_room_and_ends_no_round() -> None:
    """Whoever is cancelled while it awaits its future runs a moment later."""
    gate, lanes = CallGate(), Lanes()
    gate.round(lanes, 0.0)
    with gate.waiting(FULL) as ended, gate.waiting(FULL) as waiting:
        ended.cancel()
        lanes.room[FULL] = 3
        gate.round(lanes, 0.0)
        assert waiting.done()
        assert gate.begun(FULL) == 1


async def test_those_that_wait_are_let_in_in_their_order_and_none_overtakes() -> None:
    gate, lanes = CallGate(), Lanes()
    gate.round(lanes, 0.0)
    with ExitStack() as stack:
        first, second, third = [stack.enter_context(gate.waiting(FULL)) for _ in range(3)]
        lanes.room[FULL] = 3
        assert not gate.lets_in(FULL, 1.0), "others wait"
        gate.round(lanes, 1.0)
        assert (first.done(), second.done(), third.done()) == (True, True, False), "half of the room, and at least one"
        gate.round(lanes, 2.0)
        assert third.done()
        assert gate.begun(FULL) == 3


async def test_who_gives_up_waits_no_more() -> None:
    gate, lanes = CallGate(), Lanes()

    async def wait() -> None:
        with gate.waiting(FULL) as future:
            await future

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert FULL in gate.parties
    task.cancel()
    await asyncio.wait({task})
    assert not gate.parties
    lanes.room[FULL] = 1
    gate.round(lanes, 0.0)
    assert gate.lets_in(FULL, 0.0)


async def test_a_call_that_was_lost_with_its_partition_is_forgotten() -> None:
    gate = CallGate()
    lanes = Lanes(full=1)
    gate.round(lanes, 0.0)
    assert gate.lets_in(FULL, 0.0)
    gate.round(lanes, FORGET_S - 1)
    assert not gate.lets_in(FULL, FORGET_S - 1)
    gate.round(lanes, FORGET_S)
    assert gate.lets_in(FULL, FORGET_S)
    gate.left(FULL)
    gate.left(FULL)
    assert not gate.parties
