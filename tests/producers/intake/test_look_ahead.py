"""What looks ahead is ended at any moment; what it finds is seen in tests/workers/test_fairness.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.intake.cancelled_ahead import CancelledAhead
from guideway.producers.intake.look_ahead import LookAhead
from guideway.producers.routing.questions import Questions
from guideway.schemas.record import Outgoing, Record


class Slow:
    """A client that takes a while to stop."""

    stopped = False

    async def stop(self) -> None:
        await asyncio.sleep(0.05)
        self.stopped = True


async def nothing(_record: Record, _id: str) -> Outgoing | None:
    return None


@pytest.mark.parametrize("what", ["look ahead", "questions"])
async def test_whoever_ends_it_while_it_closes_leaves_no_connection_open(what: str) -> None:
    """A backlog is over, or an answer is late, in the moment in which the service ends."""
    pipeline: Any = None
    made: Any = (
        LookAhead(Cluster("nowhere"), pipeline, CancelledAhead(), nothing)
        if what == "look ahead"
        else Questions(Cluster("nowhere"))
    )
    clients = made._consumer, made._producer = Slow(), Slow()
    closing = asyncio.create_task(made._close())
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await made._close()
    assert [one.stopped for one in clients] == [True, True]
