"""A catalogue that may be seen and not be read is its namespace's affair: the others are followed as before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import fetch_guards
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition

from .cluster import SecuredCluster

_KAFKA_S = 30


async def test_one_that_may_not_be_read_costs_the_others_nothing(
    secured: SecuredCluster, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer is assigned anew, which interrupts what is under way, for what can be read only."""
    read, hidden = f"{unique_name}.read", f"{unique_name}.hidden"
    who = secured.add_principal(unique_name)
    await make_topics(secured.kafka.internal, [TopicDefinition(read), TopicDefinition(hidden)])
    secured.allow(who, "describe", "read", topic=read)
    secured.allow(who, "describe", topic=hidden)
    cluster = Cluster.from_environ({"KAFKA_CLIENT_CONFIG": str(secured.client_properties(who))})
    assert cluster is not None
    taken: list[bytes] = []
    asked: list[set[str]] = []
    assigned: list[set[str]] = []
    plain = fetch_guards.not_readable

    async def counting(consumer: Any, partitions: Any) -> set[str]:
        found = await plain(consumer, partitions)
        asked.append(found)
        return found

    monkeypatch.setattr("guideway.delivery.clients.topic_reader.not_readable", counting)

    def take(records: Sequence[Any]) -> None:
        taken.extend(record.value for record in records)

    async def until(values: list[bytes]) -> None:
        async with asyncio.timeout(_KAFKA_S):
            while taken != values:
                await asyncio.sleep(0.05)

    reader = TopicReader(cluster, "test", {read, hidden}.__contains__, take, look_s=0.1, look_again_s=0.2)
    async with AIOKafkaProducer(bootstrap_servers=secured.kafka.internal.brokers) as producer:
        await producer.send_and_wait(read, b"one")
        await producer.send_and_wait(hidden, b"secret")
        async with TopicFollower(reader).followed() as is_there:
            assert is_there
            assert taken == [b"one"]
            plain_assign = reader._consumer.assign

            def assign(partitions: Sequence[Any]) -> None:
                assigned.append({tp.topic for tp in partitions})
                plain_assign(partitions)

            monkeypatch.setattr(reader._consumer, "assign", assign)
            asked.clear()
            async with asyncio.timeout(_KAFKA_S):
                while len(asked) < 3:
                    await asyncio.sleep(0.05)
            await producer.send_and_wait(read, b"two")
            await until([b"one", b"two"])
            assert all(found == {hidden} for found in asked)
            assert assigned == []
            secured.allow(who, "read", topic=hidden)
            await until([b"one", b"two", b"secret"])
            _take_away(secured, who, hidden)
            await producer.send_and_wait(read, b"three")
            await until([b"one", b"two", b"secret", b"three"])


def _take_away(secured: SecuredCluster, who: str, topic: str) -> None:
    found = AclBindingFilter(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{who}",
        None,
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    for done in secured.admin.delete_acls([found]).values():
        assert len(done.result(30)) == 1
