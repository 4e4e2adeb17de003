"""Each guard for ending against the client code that it mends: an aiokafka that changes fails here first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import NoGroupCoordinator
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer
from guideway.delivery.connection.cluster import Cluster

NOWHERE = "127.0.0.1:1"
TURNS = range(8)
"""Of the event loop, from the stop to the cancellation."""


async def require_heard(stop: Awaitable[None], turns: int) -> None:
    """Cancel it after so many turns: whoever stops must hear of it, if it came before the end."""
    stopping = asyncio.ensure_future(stop)
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    if stopping.cancel():
        with pytest.raises(asyncio.CancelledError):
            await stopping


def _started_consumer() -> Any:
    """A consumer as it is after `start`, but for brokers; none of its tasks has begun."""
    consumer = make_consumer(Cluster(NOWHERE), "test")
    consumer._fetcher = Fetcher(consumer._client, consumer._subscription)
    consumer._coordinator = NoGroupCoordinator(consumer._client, consumer._subscription)
    return consumer


async def _running_consumer() -> Any:
    """The same, and its tasks have begun."""
    consumer = _started_consumer()
    await asyncio.sleep(0)
    return consumer


async def test_a_consumer_that_is_stopped_as_soon_as_it_has_started_stops() -> None:
    await _started_consumer().stop()


async def test_who_is_cancelled_before_a_stop_begins_hears_of_it() -> None:
    async def work() -> None:
        consumer = _started_consumer()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await consumer.stop()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


@pytest.mark.parametrize("turns", TURNS)
async def test_who_is_cancelled_while_a_consumer_stops_hears_of_it(turns: int) -> None:
    consumer = await _running_consumer()
    await require_heard(consumer.stop(), turns)


@pytest.mark.parametrize("turns", TURNS)
async def test_who_is_cancelled_while_a_producer_stops_hears_of_it(turns: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=NOWHERE)
    await producer._sender.start()
    await asyncio.sleep(0)
    await require_heard(producer.stop(), turns)


@pytest.mark.parametrize("turns", TURNS)
async def test_who_is_cancelled_while_a_client_closes_hears_of_it(turns: int) -> None:
    client = AIOKafkaClient(bootstrap_servers=NOWHERE)
    client._sync_task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    await require_heard(client.close(), turns)


@pytest.mark.parametrize("turns", TURNS)
async def test_a_consumer_stops_though_its_partitions_have_just_changed(turns: int) -> None:
    consumer = await _running_consumer()
    consumer.assign([TopicPartition("a", 0)])

    async def fetch() -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return False

    fetching = asyncio.create_task(fetch())
    consumer._fetcher._pending_tasks.add(fetching)
    for _ in range(5):
        await asyncio.sleep(0)
    consumer.unsubscribe()
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(consumer.stop())
    done, _ = await asyncio.wait({stopping}, timeout=5)
    stopping.cancel()
    assert done, "it would wait for ever"
