"""A caller changes its mind, or sends again what it has sent: on a real broker, with the real model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode
from guideway.schemas.names.topics import cancellation_topic, reply_topic
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.wire import CANCELLATION, REPLY
from guideway.workers.messages.from_engine import BatchReport

from .conftest import System

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]


async def until(ask: Callable[[], Awaitable[bool]], timeout_s: float = 100) -> None:
    async with asyncio.timeout(timeout_s):
        while not await ask():
            await asyncio.sleep(0.1)


async def values(system: System, topic: str) -> list[bytes]:
    """Of all committed records of a topic with one partition."""
    partition = TopicPartition(topic, 0)
    found: list[bytes] = []
    async with started(make_consumer(system.cluster, "test", auto_offset_reset="earliest"), system.cluster) as consumer:
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        while await consumer.position(partition) < end:
            batches = await consumer.getmany(timeout_ms=200)
            found += [record.value for batch in batches.values() for record in batch]
    return found


async def replies_to(system: System, endpoint: str, request_id: str) -> list[Reply]:
    found = map(REPLY.decode, await values(system, reply_topic("trial", endpoint)))
    return [reply for reply in found if reply.id == request_id]


async def cancelled(system: System, request_id: str) -> bool:
    """Whether the cancellation is on the control topic."""
    found = map(CANCELLATION.decode, await values(system, cancellation_topic("small")))
    return request_id in [one.id for one in found]


async def heard_by_the_worker(system: System, client: Client, request_id: str) -> None:
    """Wait until the worker knows of a cancellation: it knows of one that was published after that."""
    await until(lambda: cancelled(system, request_id))
    probe = f"probe after {request_id}"
    await client.cancel("/trial/plain", probe)

    async def is_heeded() -> bool:
        reply = await client.submit("/trial/plain", "Hello", request_id=probe)
        return isinstance(reply, Failed) and reply.code is FailureCode.CANCELLED

    await until(is_heeded)


def was_run(system: System, request_id: str) -> bool:
    """Whether a micro-batch held the request."""
    if not system.batches.exists():
        return False
    reports = [msgspec.json.decode(line, type=BatchReport) for line in system.batches.read_bytes().splitlines()]
    return any(row.request_id == request_id for report in reports for row in report.rows)


def is_cancelled(reply: Any) -> bool:
    return isinstance(reply, Failed) and reply.code is FailureCode.CANCELLED and "by its caller" in reply.message


async def test_cancelled_before_it_begins(system: System, client: Client) -> None:
    await client.cancel("/trial/plain", "unwanted")
    await heard_by_the_worker(system, client, "unwanted")
    assert is_cancelled(await client.submit("/trial/plain", "Hello", request_id="unwanted"))
    assert not was_run(system, "unwanted")
    elsewhere = await client.submit("/trial/drawn", "Hello", request_id="unwanted")
    assert isinstance(elsewhere, Completed), "another endpoint's request of that id"
    assert len(await replies_to(system, "plain", "unwanted")) == 1


async def test_cancelled_while_it_runs(system: System, client: Client) -> None:
    running = asyncio.create_task(client.submit("/trial/lengthy", "Tell me everything.", request_id="lengthy"))

    async def runs() -> bool:
        assert not running.done(), running.result()
        return was_run(system, "lengthy")

    await until(runs)
    done = await asyncio.to_thread(system.command, "cancel", "/trial/lengthy", "lengthy", "--json")
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, "lengthy"), done.stderr
    asked_at = time.monotonic()
    assert is_cancelled(await running)
    assert time.monotonic() - asked_at < 15, "as soon as a step allows"
    after = await client.submit("/trial/plain", "Hello")
    assert isinstance(after, Completed)
    assert len(await replies_to(system, "lengthy", "lengthy")) == 1


async def test_cancelled_after_its_end(system: System, client: Client) -> None:
    reply = await client.submit("/trial/plain", "Hello", request_id="quick")
    assert isinstance(reply, Completed)
    await client.cancel("/trial/plain", "quick")
    await heard_by_the_worker(system, client, "quick")
    assert await replies_to(system, "plain", "quick") == [reply]


async def test_the_same_id_again_is_answered_once(system: System, client: Client) -> None:
    with pytest.raises(TimeoutError):
        await client.submit("/trial/drawn", "Tell me a story.", request_id="again", timeout_s=0.001)
    async with Client(system.cluster) as elsewhere, client.replies("/trial/drawn") as stream:
        async with asyncio.timeout(100):
            told = await asyncio.gather(
                *(one.submit("/trial/drawn", "Tell me a story.", request_id="again") for one in (client, client)),
                elsewhere.submit("/trial/drawn", "Tell me a story.", request_id="again"),
            )
            assert all(isinstance(reply, Completed) for reply in told)

            async def all_are_there() -> bool:
                return len(await replies_to(system, "drawn", "again")) == 4

            await until(all_are_there)
            assert told == [(await replies_to(system, "drawn", "again"))[0]] * 3
            await client.submit("/trial/drawn", "And then?", request_id="then")
            assert [(await anext(stream)).id, (await anext(stream)).id] == ["again", "then"]


async def test_tail_shows_an_id_once(system: System, client: Client) -> None:
    for text in ("One", "Two"):
        assert isinstance(await client.submit("/trial/copies", text, request_id="twice"), Completed)
    await client.submit("/trial/copies", "Three", request_id="last")

    async def all_are_there() -> bool:
        return bool(await replies_to(system, "copies", "last"))

    await until(all_are_there)
    shown = await asyncio.to_thread(system.command, "tail", "/trial/copies", "--from-beginning", "-n", "2", "--json")
    told = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(told) == len({one["id"] for one in told}) == 2
    for one in told:
        assert one.pop("key") is None
        assert one.pop("time").endswith("Z")
        assert REPLY.decode(json.dumps(one).encode()).id == one["id"], "what else is there is the reply"
