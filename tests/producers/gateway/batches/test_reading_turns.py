"""Files that gateways read, in turns."""

from __future__ import annotations

import asyncio
import sys

import pytest

from guideway.producers.gateway.batches.reading_turns import SMALL_BYTES, Turns


async def test_a_small_file_of_one_does_not_wait_for_the_large_one_of_another() -> None:
    turns, usual_s = Turns(), sys.getswitchinterval()

    async def read(size: int) -> None:
        async with turns.turn(size):
            pass

    async with turns.turn(SMALL_BYTES + 1):
        await asyncio.wait_for(read(SMALL_BYTES), 5)
        assert sys.getswitchinterval() < usual_s
        other = asyncio.create_task(read(SMALL_BYTES + 1))
        await asyncio.sleep(0)
        assert not other.done()
    await asyncio.wait_for(other, 5)
    assert sys.getswitchinterval() == pytest.approx(usual_s)
