"""A backlog of one namespace or lane on a real broker, and what others have of it: nothing."""

from __future__ import annotations

from collections import Counter

from tests.workers.end_to_end import EndToEnd, until

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.producers.intake.shares import QUEUE
from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.topics import event_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.wire import CANCELLATION, REQUEST


async def add(system: EndToEnd, endpoint: Endpoint) -> None:
    await make_topics(system.cluster, topics.wanted([endpoint]))
    async with CatalogueFollower(system.cluster) as reader:
        await reader.seen(await publish(system.cluster, plan_changes(reader.catalogue, [endpoint])))


async def send(system: EndToEnd, topic: str, texts: list[str]) -> None:
    async with started(make_producer(system.cluster, "test", linger_ms=5), system.cluster) as producer:
        sent = [await producer.send(topic, text.encode()) for text in texts]
        for one in sent:
            await one


async def in_lane(system: EndToEnd, lane: str = "interactive") -> Counter[str]:
    """How many requests of each namespace were published."""
    topic = request_topic(system.name, lane)
    records = [record for number in range(2) for record in await system.records(topic, number)]
    return Counter(REQUEST.decode(record.value).namespace for record in records)


async def test_a_backlog_stays_in_its_own_topics_and_a_neighbour_is_let_in(system: EndToEnd) -> None:
    neighbour = Endpoint(namespace=f"{system.name}-b", name="task", model_size=system.name, output=Text())
    await add(system, neighbour)
    backlog = [f"text {number}" for number in range(QUEUE + 150)]
    await send(system, event_topic(system.name, "task"), backlog)

    async def the_share_is_published() -> bool:
        return (await in_lane(system))[system.name] >= QUEUE

    await until(the_share_is_published)
    await send(system, event_topic(neighbour.namespace, "task"), ["hello"])

    async def the_neighbour_is_published() -> bool:
        return bool((await in_lane(system))[neighbour.namespace])

    await until(the_neighbour_is_published)
    assert await in_lane(system) == {system.name: QUEUE, neighbour.namespace: 1}

    async def all_are_answered() -> bool:
        return len(await system.replies()) >= len(backlog)

    async with system.worker():
        await until(all_are_answered, 60)
    values = [reply.value for reply in await system.replies() if isinstance(reply, Completed)]
    assert Counter(values) == Counter(backlog)


async def test_a_full_batch_lane_leaves_slots_to_the_interactive_one(system: EndToEnd) -> None:
    later = Endpoint(namespace=system.name, name="later", model_size=system.name, lane="batch", output=Text())
    await add(system, later)
    await send(system, event_topic(system.name, "later"), ["wait"] * 40)

    async def the_backlog_is_there() -> bool:
        return (await in_lane(system, "batch"))[system.name] == 40

    await until(the_backlog_is_there)
    async with system.worker(capacity=8, drain_timeout_s=0.1) as worker:

        async def as_many_as_may_are_taken_in() -> bool:
            return len(worker._cancellations._running) == 4

        await until(as_many_as_may_are_taken_in)
        # None of them ends before this one comes.
        assert isinstance(await system.submit("hello"), Completed)


async def test_what_is_cancelled_behind_a_backlog_is_cancelled(system: EndToEnd) -> None:
    topic = event_topic(system.name, "task")
    async with started(make_producer(system.cluster, "test", linger_ms=5), system.cluster) as producer:
        for number in range(QUEUE + 150):
            given = (header.REQUEST_ID, f"r{number}".encode())
            await producer.send(topic, f"text {number}".encode(), headers=[given], partition=0)
        await producer.flush()
    waiting, early, late = f"r{QUEUE + 149}", "r0", f"r{QUEUE + 148}"

    async def the_share_is_published() -> bool:
        return (await in_lane(system))[system.name] >= QUEUE

    await until(the_share_is_published)
    async with started(make_producer(system.cluster, "test"), system.cluster) as producer:
        for id_ in (waiting, early, late):
            given = (header.CANCEL, id_.encode())
            await producer.send_and_wait(topic, None, key=id_.encode(), headers=[given], partition=0)

    async def workers_are_told() -> bool:
        return {CANCELLATION.decode(one.value).id for one in await system.cancellations()} == {waiting, early, late}

    await until(workers_are_told)
    assert await in_lane(system) == {system.name: QUEUE}, "the tombstones are not reached yet"

    async def all_are_answered() -> bool:
        return len(await system.replies()) >= QUEUE + 150

    async with system.worker():
        await until(all_are_answered, 60)
    replies = await system.replies()
    assert len(replies) == len({reply.id for reply in replies}) == QUEUE + 150
    cancelled = {reply.id for reply in replies if isinstance(reply, Failed) and reply.code is FailureCode.CANCELLED}
    assert cancelled == {waiting, early, late}
    assert (await in_lane(system))[system.name] == QUEUE + 148, "what had not begun was not even published"
