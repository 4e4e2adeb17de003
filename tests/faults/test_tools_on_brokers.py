"""The tools of the fault tests on Apache Kafka: brokers that come to harm, and a proxy that aiokafka talks through."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.sender import EndTxnHandler
from aiokafka.protocol.transaction import EndTxnResponse_v0
from tests.faults.kafka.cluster import NO_KAFKA, KafkaCluster, steady_ports
from tests.faults.kafka.frames import Api, offset_fetch_empty, offset_fetch_error
from tests.faults.kafka.proxy import KafkaProxy
from tests.faults.kafka.questions import (
    await_in_sync,
    group_coordinator,
    leaders,
    open_transactions,
    transaction_coordinator,
)

from guideway.delivery.clients.kafka_client import make_consumer, make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition

pytestmark = [pytest.mark.broker, pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason=NO_KAFKA)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker, whose clients are sent to a proxy's port."""
    (port,) = steady_ports(1)
    with KafkaCluster.up(tmp_path_factory.mktemp("kafka"), brokers=1, advertise={1: port}) as cluster:
        yield cluster


@pytest.fixture
async def proxy(cluster: KafkaCluster) -> AsyncIterator[KafkaProxy]:
    async with KafkaProxy.before(cluster) as proxy:
        yield proxy


@pytest.fixture
async def topic(cluster: KafkaCluster, unique_name: str) -> str:
    await make_topics(cluster.internal, [TopicDefinition(unique_name)])
    return unique_name


def reader(cluster: Cluster, topic: str, **settings: Any) -> AIOKafkaConsumer:
    consumer = make_consumer(cluster, "reader", auto_offset_reset="earliest", **settings)
    consumer.assign([TopicPartition(topic, 0)])
    return consumer


async def committed_values(cluster: KafkaCluster, topic: str) -> list[bytes]:
    """All that a reader of committed records gets now, past the proxy."""
    consumer = reader(cluster.internal, topic)
    async with started(consumer, cluster.internal):
        # The fetch that answers with no more records is the one that reached the last stable offset.
        found: list[bytes] = []
        while batch := await consumer.getmany(timeout_ms=500):
            found += [record.value for records in batch.values() for record in records]
        return found


def transactional(cluster: KafkaCluster, name: str) -> AIOKafkaProducer:
    return make_producer(cluster.cluster, "worker", transactional_id=name, transaction_timeout_ms=60_000)


async def test_clients_work_through_the_proxy_while_it_disturbs(
    cluster: KafkaCluster, proxy: KafkaProxy, topic: str
) -> None:
    rules = [
        proxy.duplicate(Api.PRODUCE, client="guideway-worker", count=2),
        proxy.drop(Api.PRODUCE, on="response", client="guideway-worker", count=2),
        proxy.delay(Api.METADATA, 0.05, client="guideway-worker"),
    ]
    producer = make_producer(cluster.cluster, "worker")
    async with started(producer, cluster.cluster):
        for i in range(20):
            await producer.send_and_wait(topic, str(i).encode(), partition=0)
    async with started(reader(cluster.cluster, topic), cluster.cluster) as consumer:
        assert [(await consumer.getone()).value for _ in range(20)] == [str(i).encode() for i in range(20)]
    await proxy.settled()
    assert await committed_values(cluster, topic) == [str(i).encode() for i in range(20)]
    assert [rule.hits for rule in rules[:2]] == [2, 2]
    assert rules[2].hits > 0


async def test_an_end_of_a_transaction_that_comes_late_is_carried_out(
    cluster: KafkaCluster, proxy: KafkaProxy, topic: str
) -> None:
    rule = proxy.deliver_late(Api.END_TXN, 2.0, client="guideway-worker", count=1)
    async with started(transactional(cluster, topic), cluster.cluster) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"late", partition=0)
        with pytest.raises(errors.ProducerFenced):
            await producer.commit_transaction()
        assert await open_transactions(cluster.internal) == {topic: "Ongoing"}
        assert await committed_values(cluster, topic) == []
        await proxy.settled()
    (answer,) = rule.answers
    assert EndTxnResponse_v0.decode(answer[4:]).error_code == 0
    await nothing_open(cluster)
    assert await committed_values(cluster, topic) == [b"late"]


async def test_without_its_guard_a_late_end_ends_the_next_transaction(
    cluster: KafkaCluster, proxy: KafkaProxy, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.deliver_late(Api.END_TXN, 5.0, client="guideway-worker", count=1)
    async with started(transactional(cluster, topic), cluster.cluster) as producer:
        monkeypatch.delattr(EndTxnHandler, "do")
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"first", partition=0)
        await producer.commit_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"never committed", partition=0)
        await nothing_open_but(cluster, {topic: "Ongoing"})
        assert await committed_values(cluster, topic) == [b"first"]
        await proxy.settled()
        await nothing_open(cluster)
        assert await committed_values(cluster, topic) == [b"first", b"never committed"]


async def nothing_open(cluster: KafkaCluster) -> None:
    await nothing_open_but(cluster, {})


async def nothing_open_but(cluster: KafkaCluster, wanted: dict[str, str]) -> None:
    """Return once these are the open transactions. Raises TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        while await open_transactions(cluster.internal) != wanted:
            await asyncio.sleep(0.02)


async def test_without_its_guard_an_injected_answer_to_offset_fetch_is_believed(
    cluster: KafkaCluster, proxy: KafkaProxy, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = TopicPartition(topic, 0)
    consumer = reader(cluster.cluster, topic, group_id=topic)
    async with started(consumer, cluster.cluster):
        # A consumer that knows its position asks for no committed offset of its own: the answers below are for us.
        await consumer.position(partition)
        await consumer.commit({partition: (7, "metadata")})
        proxy.answer(Api.OFFSET_FETCH, offset_fetch_error(30), count=1)
        with pytest.raises(errors.GroupAuthorizationFailedError):
            await group_guards.committed(consumer, partition)
        # Those that pass are asked again until the answer is the broker's own.
        passing = [proxy.answer(Api.OFFSET_FETCH, offset_fetch_error(code), count=1) for code in (14, 15, 16)]
        assert await group_guards.committed(consumer, partition) == (7, "metadata")
        assert [rule.hits for rule in passing] == [1, 1, 1]
        # So is one that says nothing of the partition. Without the guard both mean that nothing was ever committed.
        empty = proxy.answer(Api.OFFSET_FETCH, offset_fetch_empty, count=1)
        assert await group_guards.committed(consumer, partition) == (7, "metadata")
        assert empty.hits == 1
        monkeypatch.setattr(GroupCoordinator, "_send_req", group_guards._plain_send_req)
        for edit in (offset_fetch_error(14), offset_fetch_empty):
            proxy.answer(Api.OFFSET_FETCH, edit, count=1)
            assert await group_guards.committed(consumer, partition) is None


async def test_a_broker_that_is_paused_cut_off_or_killed_comes_back(
    cluster: KafkaCluster, proxy: KafkaProxy, topic: str
) -> None:
    async with started(make_producer(cluster.cluster, "worker"), cluster.cluster) as producer:
        await producer.send_and_wait(topic, b"0", partition=0)

        async def sent_meanwhile(value: bytes) -> asyncio.Future[Any]:
            sending: asyncio.Future[Any] = await producer.send(topic, value, partition=0)
            assert not (await asyncio.wait([sending], timeout=0.5))[0]
            return sending

        cluster.pause(1)
        sending = await sent_meanwhile(b"paused")
        cluster.resume(1)
        await sending
        proxy.partition(client="guideway-worker")
        sending = await sent_meanwhile(b"cut off")
        assert await leaders(cluster.internal, topic) == {0: 1}
        proxy.heal()
        await sending
        pid = cluster.pid(1)
        await asyncio.to_thread(cluster.kill, 1)
        assert cluster.pid(1) is None
        sending = await sent_meanwhile(b"killed")
        await asyncio.to_thread(cluster.start, 1)
        assert cluster.pid(1) not in (None, pid)
        await sending
    assert await committed_values(cluster, topic) == [b"0", b"paused", b"cut off", b"killed"]


async def test_three_brokers_stand_in_for_one_another(
    tmp_path_factory: pytest.TempPathFactory, unique_name: str
) -> None:
    with await asyncio.to_thread(KafkaCluster.up, tmp_path_factory.mktemp("kafka"), brokers=3) as cluster:
        assert cluster.brokers == (1, 2, 3)
        await make_topics(cluster.cluster, [TopicDefinition(unique_name, partitions=6)])
        led = await leaders(cluster.cluster, unique_name)
        assert (set(led), set(led.values())) == (set(range(6)), {1, 2, 3})
        assert await transaction_coordinator(cluster.cluster, unique_name) in cluster.brokers
        async with started(transactional(cluster, unique_name), cluster.cluster) as producer:
            victim = await group_coordinator(cluster.cluster, unique_name)
            await asyncio.to_thread(cluster.stop, victim)
            await producer.begin_transaction()
            await producer.send_and_wait(unique_name, b"0", partition=0)
            assert await open_transactions(cluster.cluster) == {unique_name: "Ongoing"}
            assert await group_coordinator(cluster.cluster, unique_name) != victim
            assert victim not in (await leaders(cluster.cluster, unique_name)).values()
            await producer.commit_transaction()
        await asyncio.to_thread(cluster.start, victim)
        await await_in_sync(cluster.cluster)
        await nothing_open(cluster)
