"""Makes Kafka clients, with our guards and client ids, and a Refusal where no broker answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.guards import aiokafka_guards, group_guards, transaction_guards
from guideway.delivery.settings import MAX_RECORD_BYTES, DeliverySettings
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal

START_TIMEOUT_S = 20.0


def make_consumer(bootstrap: str, role: str, **settings: Any) -> AIOKafkaConsumer:
    """A consumer of committed records that commits nothing by itself; not started."""
    aiokafka_guards.install()
    fixed = {"client_id": names.client_id(role), "enable_auto_commit": False, "isolation_level": "read_committed"}
    return AIOKafkaConsumer(bootstrap_servers=bootstrap, **fixed | settings)


def make_producer(bootstrap: str, role: str, **settings: Any) -> AIOKafkaProducer:
    """A producer whose records all replicas in sync have before they count; not started."""
    aiokafka_guards.install()
    fixed: dict[str, Any] = {"client_id": names.client_id(role), "acks": "all"}
    if "transactional_id" not in settings:
        fixed["enable_idempotence"] = True
    return AIOKafkaProducer(bootstrap_servers=bootstrap, **fixed | settings)


class PartitionClient:
    """A `PartitionKafka` by aiokafka."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: TopicDirectory, settings: DeliverySettings) -> None:
        self._consumer = consumer
        self._settings = settings
        self._topics = topics

    def producer(self, transactional_id: str) -> AIOKafkaProducer:
        return make_producer(
            self._settings.bootstrap,
            "delivery",
            transactional_id=transactional_id,
            transaction_timeout_ms=int(self._settings.transaction_timeout_s * 1000),
            request_timeout_ms=15_000,
            retry_backoff_ms=20,
            max_request_size=MAX_RECORD_BYTES + 48_576,
        )

    async def renew(self, producer: AIOKafkaProducer) -> None:
        await transaction_guards.renew_epoch(producer)

    async def discard(self, producer: AIOKafkaProducer) -> None:
        await transaction_guards.discard(producer)

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        return await group_guards.committed(self._consumer, tp)

    async def alive(self) -> frozenset[int]:
        tokens = map(names.token_of_client_id, await group_guards.members(self._consumer))
        return frozenset(token for token in tokens if token is not None)

    async def first_offset(self, tp: TopicPartition) -> int:
        return int((await self._consumer.beginning_offsets([tp]))[tp])

    async def end_offset(self, tp: TopicPartition) -> int:
        return int((await self._consumer.end_offsets([tp]))[tp])

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._consumer.seek(tp, offset)

    async def partitions(self, topic: str) -> int:
        return await self._topics.partitions(topic)


@asynccontextmanager
async def started(client: Any, bootstrap: str) -> AsyncIterator[Any]:
    """The client, started on entry and stopped on exit. Raises Refusal(broker_unreachable) if it cannot be started."""
    try:
        await asyncio.wait_for(client.start(), START_TIMEOUT_S)
    except (KafkaError, TimeoutError) as error:
        await client.stop()
        raise unreachable(bootstrap, error) from None
    try:
        yield client
    finally:
        await client.stop()


def unreachable(bootstrap: str, error: BaseException, *, connected: bool = False) -> Refusal:
    """The Refusal for brokers that do not answer, or refuse. `connected`: they had answered before."""
    name = type(error).__name__
    if isinstance(error, errors.BrokerResponseError) and not error.retriable:
        # They have answered: to start them or to look for another address would mend nothing.
        mend = "give this user the right" if "Auth" in name else "look at their log, and at the topic's settings"
        return Refusal(
            FailureCode.BROKER_UNREACHABLE, f"the brokers at {bootstrap} refuse what was asked ({name}): {mend}"
        )
    if connected and isinstance(error, TimeoutError):
        return Refusal(
            FailureCode.BROKER_UNREACHABLE,
            f"the brokers at {bootstrap} were reached, but did not answer in time: they are busy, or one of them is "
            "down; try again later",
        )
    return Refusal(
        FailureCode.BROKER_UNREACHABLE,
        f"no answer from the brokers at {bootstrap} ({name}): start them, or correct KAFKA_BOOTSTRAP_SERVERS; if they "
        "run, it may be a listener that wants a password (SASL) or TLS, which guideway does not speak yet",
    )
