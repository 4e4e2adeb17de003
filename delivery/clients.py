"""Kafka clients as this project makes them: with its guards, its client ids, and a refusal where no broker answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from guideway.delivery import aiokafka_guards
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


def unreachable(bootstrap: str, error: BaseException) -> Refusal:
    """What to say when the brokers do not answer."""
    return Refusal(
        FailureCode.BROKER_UNREACHABLE,
        f"no answer from the brokers at {bootstrap} ({type(error).__name__}): "
        "start them, or correct KAFKA_BOOTSTRAP_SERVERS",
    )
