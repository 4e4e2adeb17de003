"""A child process that ends, as its parent sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from guideway.workers.processes.child import _ended


@pytest.mark.parametrize("turns", range(4))
async def test_who_waits_for_its_end_hears_that_they_are_cancelled_in_the_same_moment(turns: int) -> None:
    """Else the engine's keeper would start another process while its worker ends, and the worker would never end."""
    end = asyncio.get_running_loop().create_future()

    class Ending:
        returncode: int | None = None

        async def wait(self) -> None:
            await end

    process: Any = Ending()
    waiting = asyncio.create_task(_ended(process))
    await asyncio.sleep(0.01)
    end.set_result(None)
    process.returncode = 0
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
