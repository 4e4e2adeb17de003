"""Questions to workers, and who asks them."""

from __future__ import annotations

import asyncio

import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.routing.questions import Questions


async def test_who_is_cancelled_while_the_clients_are_made_anew_hears_of_it() -> None:
    """Else it would ask again and again, for an event that nobody here has any more."""
    questions = Questions(Cluster("127.0.0.1:1"))
    questions._reading = asyncio.create_task(_ends_slowly())
    await asyncio.sleep(0)
    closing = asyncio.create_task(questions._close())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def _ends_slowly() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(60)
