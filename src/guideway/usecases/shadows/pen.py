"""Writes on `gw.NAMESPACE.shadows.v1` how far shadows are: one process at a time in each namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.errors import KafkaError, ProducerFenced

from guideway.catalogue.writing import Overtaken
from guideway.delivery.clients.kafka_client import START_TIMEOUT_S, explained, make_producer
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.transaction_guards import TopicsRefused, discard
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import shadows_writer
from guideway.schemas.names.service_topics import shadows_topic
from guideway.usecases.shadows.book import Records


class Pen:
    """The right to write, until somebody else takes it."""

    def __init__(self, cluster: Cluster, namespace: str, producer: Any) -> None:
        self._cluster, self._topic, self._producer = cluster, shadows_topic(namespace), producer

    async def write(self, records: Records) -> int:
        """Write all of these or none; returns the last offset.

        Raises: Overtaken; Refusal: broker_unreachable, not_allowed.
        """
        last = -1
        try:
            async with self._producer.transaction():
                # All at once: one by one, the rows of a long shadow take longer than a transaction may.
                sent = [
                    await self._producer.send(self._topic, key=key, value=value, partition=0) for key, value in records
                ]
                last = max((one.offset for one in await asyncio.gather(*sent)), default=-1)
        except TopicsRefused:
            raise Refusal(
                FailureCode.NOT_ALLOWED,
                f"this user may not write the topic {self._topic}: ask whoever runs the cluster for the right",
            ) from None
        except ProducerFenced:
            raise Overtaken from None
        except KafkaError as error:
            raise await explained(self._cluster, error) from None
        return last


@asynccontextmanager
async def sole_pen(cluster: Cluster, namespace: str) -> AsyncIterator[Pen]:
    """Whoever enters takes the pen from whoever is inside. Raises Refusal: broker_unreachable, not_allowed."""
    producer: Any = make_producer(cluster, "shadows", transactional_id=shadows_writer(namespace))
    try:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await producer.start()
        except (KafkaError, TimeoutError) as error:
            raise await explained(cluster, error) from None
        yield Pen(cluster, namespace, producer)
    finally:
        await discard(producer)
