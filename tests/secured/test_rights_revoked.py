"""A right that is taken away while a service runs: nothing is lost, nothing spins, and the log names it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from structlog.testing import capture_logs
from tests.delivery.test_pipeline import Bench, running

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition
from guideway.schemas.record import Outgoing, Record

from .cluster import SecuredCluster

_KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transaction": ResourceType.TRANSACTIONAL_ID}
_KAFKA_S = 90


class Service:
    """A pipeline over the topics NAME.in and NAME.other, which logs in as NAME and has literal rights."""

    def __init__(self, secured: SecuredCluster, name: str) -> None:
        self.secured, self.name = secured, name
        self.bench = Bench(secured.kafka.internal, name)
        self.other = f"{name}.other"
        login = Cluster.from_environ({"KAFKA_CLIENT_CONFIG": str(secured.client_properties(name))})
        assert login is not None
        self.pipeline = Pipeline(
            DeliverySettings(cluster=login, max_backoff_s=2),
            group=f"{name}.group",
            topics=[self.bench.input, self.other],
            handle=self._handle,
        )

    async def _handle(self, record: Record) -> list[Outgoing]:
        return self.bench.echo(record)

    async def prepare(self) -> None:
        await self.bench.prepare(0)
        await make_topics(self.bench.cluster, [TopicDefinition(self.other, 1), TopicDefinition(f"{self.other}.dlq")])
        self.grant("topic", self.bench.input, "read", "describe")
        self.grant("topic", self.other, "read", "describe")
        for topic in (self.bench.output, self.bench.dead, f"{self.other}.dlq"):
            self.grant("topic", topic, "write", "describe")
        self.grant("group", f"{self.name}.group", "read", "describe")
        self.secured.allow(self.name, "write", "describe", transaction="*")

    def grant(self, kind: str, resource: str, *operations: str) -> None:
        self.secured.allow(self.name, *operations, **{kind: resource})

    def revoke(self, kind: str, resource: str, operation: str) -> None:
        found = AclBindingFilter(
            _KINDS[kind],
            resource,
            ResourcePatternType.LITERAL,
            f"User:{self.name}",
            None,
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for done in self.secured.admin.delete_acls([found]).values():
            assert len(done.result(30)) == 1

    async def send(self, topic: str, values: Sequence[int]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bench.cluster.brokers) as producer:
            for value in values:
                await producer.send_and_wait(topic, str(value).encode())


@pytest.mark.parametrize(
    ("kind", "resource", "operation", "says"),
    [
        ("topic", "{name}.in", "read", "a topic may not be read: grant Read on it"),
        ("group", "{name}.group", "read", "GroupAuthorizationFailedError"),
        ("transaction", "*", "write", "TransactionalIdAuthorizationFailed"),
        ("topic", "{name}.out", "write", "partition reopens"),
    ],
)
async def test_a_right_is_taken_away_and_given_back(
    secured: SecuredCluster, unique_name: str, kind: str, resource: str, operation: str, says: str
) -> None:
    service = Service(secured, secured.add_principal(unique_name))
    await service.prepare()
    named = resource.format(name=unique_name)
    with capture_logs() as lines:
        async with running(service.pipeline):
            await service.send(service.bench.input, range(5))
            await asyncio.wait_for(service.bench.read(5), _KAFKA_S)
            service.revoke(kind, named, operation)
            lines.clear()
            await service.send(service.bench.input, range(5, 10))
            async with asyncio.timeout(_KAFKA_S):
                while says not in str(lines):
                    await asyncio.sleep(0.1)
            await asyncio.sleep(4)
            during = list(lines)
            expected = 10
            if operation == "read" and kind == "topic":
                # Whoever owns the other topic does not wait for that.
                await service.send(service.other, range(10, 13))
                expected += 3
                await asyncio.wait_for(service.bench.read(8), 8)
            service.grant(kind, named, operation)
            both = service.bench.output, service.bench.dead
            found = await asyncio.wait_for(service.bench.read(expected, *both), _KAFKA_S)
            await asyncio.wait_for(service.bench.until_finished(), _KAFKA_S)
    values = Counter(one.value for one in found)
    assert set(values) >= {str(number).encode() for number in range(10)}
    assert max(values.values()) == 1
    assert says in str(during)
    assert unique_name in str(during)
    assert len(during) < 60
