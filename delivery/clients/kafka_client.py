"""Makes Kafka clients, with our guards and client ids, and a Refusal where no broker answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.look import wrong_with
from guideway.delivery.connection.rights import refusal_for
from guideway.delivery.connection.trouble import Cause, found
from guideway.delivery.guards import aiokafka_guards
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.clients import client_id
from guideway.schemas.record import Record

START_TIMEOUT_S = 20.0
_STOP_S: Final = 5.0


def make_consumer(cluster: Cluster, role: str, **settings: Any) -> AIOKafkaConsumer:
    """A consumer of committed records that commits nothing by itself; not started."""
    aiokafka_guards.install()
    fixed = {"client_id": client_id(role), "enable_auto_commit": False, "isolation_level": "read_committed"}
    return AIOKafkaConsumer(**cluster.client_settings() | fixed | settings)


def make_producer(cluster: Cluster, role: str, **settings: Any) -> AIOKafkaProducer:
    """A producer whose records all replicas in sync have before they count; not started."""
    aiokafka_guards.install()
    fixed: dict[str, Any] = {"client_id": client_id(role), "acks": "all"}
    if "transactional_id" not in settings:
        fixed["enable_idempotence"] = True
    return AIOKafkaProducer(**cluster.client_settings() | fixed | settings)


def as_record(record: ConsumerRecord[bytes, bytes]) -> Record:
    """The record without its client library."""
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )


@asynccontextmanager
async def started(client: Any, cluster: Cluster) -> AsyncIterator[Any]:
    """The client, started on entry and stopped on exit.

    Raises Refusal if it cannot be started: broker_unreachable, login_refused, not_allowed.
    """
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await client.start()
    except BaseException as error:
        # Also where the caller is cancelled: what it has begun would go on for as long as the process.
        await client.stop()
        if isinstance(error, KafkaError | TimeoutError):
            raise await explained(cluster, error) from None
        raise
    try:
        yield client
    finally:
        await client.stop()


async def stop_all(*clients: Any, within_s: float = _STOP_S) -> None:
    """Stop these clients, within so many seconds and whatever they raise; None stands for none.

    Who is cancelled meanwhile hears of it when all of them are stopped: nobody else would stop the others.
    """

    async def stop(client: Any) -> None:
        with suppress(Exception):
            async with asyncio.timeout(within_s):
                await client.stop()

    stopping = asyncio.gather(*(stop(one) for one in clients if one is not None), return_exceptions=True)
    try:
        await asyncio.shield(stopping)
    except asyncio.CancelledError:
        await stopping
        raise


async def explained(cluster: Cluster, error: BaseException) -> Refusal:
    """As `unreachable`; where the error does not say why, the brokers are looked at, which takes seconds."""
    if isinstance(error, errors.KafkaConnectionError | TimeoutError) and found(error) is None:
        cause = await asyncio.to_thread(wrong_with, cluster)
        if isinstance(cause, Cause):
            return cause.refusal(cluster)
    return unreachable(cluster, error)


def unreachable(cluster: Cluster, error: BaseException, *, connected: bool = False) -> Refusal:
    """The Refusal for brokers that do not answer, or refuse. `connected`: they had answered before."""
    if (told := refusal_for(cluster, error)) is not None:
        return told
    name = type(error).__name__
    if isinstance(error, errors.BrokerResponseError) and not error.retriable:
        # They have answered: to start them or to look for another address would mend nothing.
        return Refusal(
            FailureCode.BROKER_UNREACHABLE,
            f"the brokers at {cluster} refuse what was asked ({name}): look at their log, and at the topic's settings",
        )
    if connected and isinstance(error, TimeoutError):
        return Refusal(
            FailureCode.BROKER_UNREACHABLE,
            f"the brokers at {cluster} were reached, but did not answer in time: they are busy, or one of them is "
            "down; try again later",
        )
    return Refusal(
        FailureCode.BROKER_UNREACHABLE,
        f"no answer from the brokers at {cluster} ({name}): start them, or correct KAFKA_BOOTSTRAP_SERVERS",
    )
