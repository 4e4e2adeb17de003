"""The faults: what is done to a running group, and what has to have been seen for a run to count."""

from __future__ import annotations

import signal

from .run import Fault, Situation


async def kill_workers(situation: Situation) -> None:
    """kill -9 of each worker in turn, three times each, in mid-generation."""
    for step in range(1, 4):
        for number, worker in enumerate(situation.bench.workers):
            await situation.until(0.1 * step + 0.05 * number)
            worker.send(signal.SIGKILL)


FAULTS = [
    Fault(name="kill -9 of a worker in mid-generation, each 3 times", harm=kill_workers),
]
