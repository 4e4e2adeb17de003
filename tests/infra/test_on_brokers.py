"""What guideway asks of any broker, asked of both kinds through aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.structs import OffsetAndMetadata

import guideway
from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards, stand_in_guards
from guideway.delivery.settings import MAX_READ_BYTES
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.infra.topic_removal import remove_topics
from guideway.infra.topics import TopicDefinition, wanted
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names.clients import client_id
from guideway.schemas.output import Text


@pytest.fixture
async def topic(broker: RunningBroker, unique_name: str) -> str:
    await make_topics(broker.cluster, [TopicDefinition(unique_name, partitions=2)])
    return unique_name


@contextlib.asynccontextmanager
async def started(client: Any) -> AsyncIterator[Any]:
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def committed_reader(broker: RunningBroker, topic: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        topic, bootstrap_servers=broker.cluster.brokers, isolation_level="read_committed", auto_offset_reset="earliest"
    )


async def test_topics_are_created_once(broker: RunningBroker, unique_name: str) -> None:
    endpoint = Endpoint(namespace=unique_name, name="mood", model_size=unique_name, output=Text(), partitions=3)
    model = Model(namespace="public", name=unique_name, source="package:x/y.gguf", partitions=2)
    said: list[str] = []
    first = await make_topics(broker.cluster, wanted([endpoint, model]), said.append)
    assert set(first.created) | {"gw.public.catalogue.v1", "gw.calibrations.v1"} == {
        definition.name for definition in wanted([endpoint, model])
    }
    assert [f"created {name}" for name in first.created] == said
    assert first.replication == 1

    second = await make_topics(broker.cluster, wanted([endpoint, model]))
    assert second.created == second.narrower == ()
    assert set(second.existing) == {definition.name for definition in wanted([endpoint, model])}

    wider = TopicDefinition(f"gw.{unique_name}.mood.in.v1", partitions=5)
    assert (await make_topics(broker.cluster, [wider])).narrower == (wider.name,)
    async with administrator(broker.cluster) as admin:
        assert len((await partitions_by_topic(admin))[wider.name]) == 3


async def test_topics_are_removed_and_what_is_not_there_is_no_fault(broker: RunningBroker, topic: str) -> None:
    assert await remove_topics(broker.cluster, [topic, f"{topic}.never"]) == []
    async with asyncio.timeout(10):
        while topic in await there(broker.cluster):
            await asyncio.sleep(0.1)


async def there(cluster: Cluster) -> set[str]:
    async with administrator(cluster) as admin:
        return {*await partitions_by_topic(admin)}


async def test_two_may_apply_at_once(broker: RunningBroker, unique_name: str) -> None:
    definitions = [TopicDefinition(f"{unique_name}-{i}") for i in range(5)]
    both = await asyncio.gather(*(make_topics(broker.cluster, definitions) for _ in range(2)))
    created = [name for applied in both for name in applied.created]
    assert sorted(created) == [definition.name for definition in definitions]


async def test_a_topic_that_the_cluster_refuses(broker: RunningBroker, unique_name: str) -> None:
    with pytest.raises(Refusal, match=f"refuses the topic {unique_name}: .*nonsense") as refused:
        await make_topics(broker.cluster, [TopicDefinition(unique_name, configs={"nonsense": "1"})])
    assert refused.value.code is FailureCode.INVALID_SETTING
    with pytest.raises(Refusal, match=r"factor of 3|3 time"):
        await make_topics(broker.cluster, [TopicDefinition(unique_name)], replication=3)


async def test_no_broker_within_the_time_given() -> None:
    with pytest.raises(Refusal, match=r"no Kafka broker answers at 127\.0\.0\.1:1 within 0\.2 s") as refused:
        await make_topics(Cluster("127.0.0.1:1"), [], timeout_s=0.2)
    assert refused.value.code is FailureCode.BROKER_UNREACHABLE
    with pytest.raises(Refusal, match="write host:port") as refused:
        await make_topics(Cluster("host:port"), [], timeout_s=0.2)
    assert refused.value.code is FailureCode.INVALID_SETTING


async def test_nothing_is_created_by_being_used(broker: RunningBroker, unique_name: str) -> None:
    async with administrator(broker.cluster) as admin:
        await admin.describe_topics([unique_name])
        created = unique_name in await partitions_by_topic(admin)
    # noida-db has no such setting: a misspelt name becomes a topic of one partition.
    assert created == (broker.kind == "noida-db")


async def test_a_record_as_large_as_allowed(broker: RunningBroker, topic: str) -> None:
    value = b"x" * (MAX_READ_BYTES - 1000)
    producer = AIOKafkaProducer(bootstrap_servers=broker.cluster.brokers, max_request_size=MAX_READ_BYTES)
    async with started(producer), started(committed_reader(broker, topic)) as reader:
        await producer.send_and_wait(topic, value)
        async with asyncio.timeout(20):
            assert (await reader.getone()).value == value


async def test_a_transaction_shows_results_and_offset_together(broker: RunningBroker, topic: str) -> None:
    group, taken = f"{topic}-group", TopicPartition(topic, 1)
    metadata = "m" * 16_000
    producer = AIOKafkaProducer(bootstrap_servers=broker.cluster.brokers, transactional_id=f"{topic}.tx")
    async with started(producer), administrator(broker.cluster) as admin:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.send_offsets_to_transaction({taken: OffsetAndMetadata(7, "aborted")}, group)
        await producer.abort_transaction()

        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"committed", partition=0, headers=[("correlation_id", b"\x00\xff")])
        await producer.send_offsets_to_transaction({taken: OffsetAndMetadata(5, metadata)}, group)
        assert await admin.list_consumer_group_offsets(group) == {}
        await producer.commit_transaction()
        # Kafka answers the commit before each partition has its marker; the next InitProducerId waits for them.
        async with started(AIOKafkaProducer(bootstrap_servers=broker.cluster.brokers, transactional_id=f"{topic}.tx")):
            assert await admin.list_consumer_group_offsets(group) == {taken: OffsetAndMetadata(5, metadata)}

    async with started(committed_reader(broker, topic)) as reader, asyncio.timeout(20):
        record = await reader.getone()
        assert (record.value, record.headers) == (b"committed", (("correlation_id", b"\x00\xff"),))


async def read_along(broker: RunningBroker, topic: str) -> list[bytes]:
    """What a reader that follows sees of four transactions of one transactional id, the second aborted."""
    seen: list[bytes] = []

    async def read(reader: AIOKafkaConsumer, within_ms: int) -> None:
        for records in (await reader.getmany(timeout_ms=within_ms)).values():
            seen.extend(record.value for record in records)

    async with started(committed_reader(broker, topic)) as reader:
        for value in (b"1", b"aborted", b"2", b"3"):
            producer = AIOKafkaProducer(bootstrap_servers=broker.cluster.brokers, transactional_id=f"{topic}.tx")
            async with started(producer):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, value, partition=0)
                await (producer.abort_transaction() if value == b"aborted" else producer.commit_transaction())
            await read(reader, 500)
        for _ in range(10):
            if b"3" not in seen:
                await read(reader, 500)
    return seen


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka as it comes, whoever has mended it before; as it was after the test."""
    monkeypatch.setattr(PartitionRecords, "__init__", stand_in_guards._plain_init)
    monkeypatch.setattr(PartitionRecords, "_contains_abort_marker", stand_in_guards._plain_contains_abort_marker)


@pytest.fixture
def guarded(unguarded: None) -> None:
    stand_in_guards.install()


@pytest.mark.usefixtures("guarded")
async def test_a_guarded_reader_sees_what_is_committed_after_an_abort(broker: RunningBroker, topic: str) -> None:
    assert await read_along(broker, topic) == [b"1", b"2", b"3"]


@pytest.mark.usefixtures("unguarded")
async def test_what_the_guard_over_aborts_is_for(broker: RunningBroker, topic: str) -> None:
    # Once this fails on a newer noida-db, the guard can go.
    assert await read_along(broker, topic) == ([b"1"] if broker.kind == "noida-db" else [b"1", b"2", b"3"])


class Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    """Knows which partitions its consumer has now."""

    def __init__(self) -> None:
        self.partitions: set[TopicPartition] = set()
        self.changed = asyncio.Condition()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        async with self.changed:
            self.partitions = set(assigned)
            self.changed.notify_all()

    async def has(self, count: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.partitions) == count)


OTHER_MEMBER = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer
from guideway.schemas.names.clients import client_id

async def main(brokers, topic, group):
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, group_id=group, client_id=client_id("worker"),
                                session_timeout_ms=6000, heartbeat_interval_ms=500, rebalance_timeout_ms=10000,
                                enable_auto_commit=False)
    await consumer.start()
    while len(consumer.assignment()) != 1:
        await consumer.getmany(timeout_ms=100)
    print("joined", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_partitions_of_a_killed_member_go_to_another(broker: RunningBroker, topic: str) -> None:
    group, mine = f"{topic}-group", Assigned()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.cluster.brokers,
        group_id=group,
        client_id=client_id("test"),
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        rebalance_timeout_ms=10_000,
        # noida-db refuses commits while a group rebalances; aiokafka then joins as somebody new, beside its own ghost.
        enable_auto_commit=False,
    )
    consumer.subscribe([topic], listener=mine)
    async with started(consumer), asyncio.timeout(60):
        await mine.has(2)
        other = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OTHER_MEMBER, broker.cluster.brokers, topic, group),
            env={"PYTHONPATH": str(Path(guideway.__file__).parents[1])},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert other.stdout is not None
            assert await other.stdout.readline() == b"joined\n"
            await mine.has(1)
        finally:
            other.kill()
            await other.communicate()
        await mine.has(2)


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "after-a-while"])
async def test_a_group_has_committed_nothing_in_a_topic_that_was_made_anew(
    broker: RunningBroker, topic: str, at_once: bool
) -> None:
    """Else it takes the first records for read, and nobody ever answers them."""
    partitions = [TopicPartition(topic, number) for number in range(2)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.cluster.brokers, group_id=f"{topic}-group", enable_auto_commit=False
    )
    async with started(AIOKafkaProducer(bootstrap_servers=broker.cluster.brokers)) as producer:
        for tp in partitions:
            await producer.send_and_wait(topic, b"x", partition=tp.partition)
    async with started(consumer), administrator(broker.cluster) as admin:
        consumer.assign(partitions)
        # noida-db's caretaker looks once a second.
        await asyncio.sleep(0 if broker.kind == "apache-kafka" else 2.5)
        await consumer.commit(dict.fromkeys(partitions, 1))
        await admin.delete_topics([topic])

        async def nothing() -> bool:
            return [await group_guards.committed(consumer, tp) for tp in partitions] == [None, None]

        async def made() -> bool:
            with contextlib.suppress(Refusal):
                await make_topics(broker.cluster, [TopicDefinition(topic, partitions=2)], timeout_s=2)
                return True
            return False

        async with asyncio.timeout(60):
            for step in (made, nothing) if at_once else (nothing, made, nothing):
                while not await step():
                    await asyncio.sleep(0.2)
