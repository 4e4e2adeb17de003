"""Each guard for reading against the client code that it mends: an aiokafka that changes fails here first."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest

from guideway.delivery.clients.kafka_client import make_consumer
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import aiokafka_guards, fetch_guards


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


async def test_fetch_context_counts_down_on_cancellation() -> None:
    state = SubscriptionState()
    with pytest.raises(asyncio.CancelledError), state.fetch_context():
        raise asyncio.CancelledError
    assert state._fetch_count == 0


async def test_a_fetch_cancelled_while_it_waits_after_an_error_just_ends() -> None:
    asked = asyncio.Event()

    class FakeClient:
        async def send(self, node: int, request: Any) -> Any:
            asked.set()
            raise errors.KafkaConnectionError("gone")

    class FakeRequest:
        topics: tuple[()] = ()

    fetcher = Fetcher.__new__(Fetcher)
    fetcher._client, fetcher._retry_backoff = FakeClient(), 60
    fetching = asyncio.create_task(fetcher._proc_fetch_request(None, 0, FakeRequest()))
    await asked.wait()
    fetching.cancel()
    assert await fetching is False


async def test_the_client_notes_when_it_was_last_answered() -> None:
    consumer = make_consumer(Cluster("127.0.0.1:1"), "test")
    assert fetch_guards.heartbeat_answered_at(consumer) == float("-inf")

    async def plain(*_: Any, **__: Any) -> None:
        return None

    before = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_guards, "_plain_send", plain)
        await consumer._client.send(0, HeartbeatRequest("g", 1, "m"))
        await consumer._client.send(0, FetchRequest(1, 1, 1, "read_committed", [], rack_id=""))
    assert fetch_guards.heartbeat_answered_at(consumer) >= before
    assert fetch_guards.fetch_answered_at(consumer) >= before
    await consumer.stop()
