"""Follows the topics of catalogues and of keys and writes the audit trail of them, each record exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.failures import Refusal
from guideway.schemas.names.groups import STEWARD_GROUP
from guideway.schemas.names.service_topics import AUDIT_TOPIC, AUDITED_TOPICS, KEYS_TOPIC
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import AUDITED
from guideway.usecases.rights.trail import trail, trail_of_keys

log = structlog.get_logger(__name__)

_REST_S: Final = 1.0
"""After brokers have not answered."""


class TrailService:
    """Any number may run: they share the catalogues among them. The trail begins with what the topics hold."""

    def __init__(self, cluster: Cluster, reader: CatalogueFollower, writers: Callable[[str], Sequence[str]]) -> None:
        """writers: topic → who may write it, as far as is known."""
        self._reader, self._writers = reader, writers
        self.pipeline = Pipeline(
            DeliverySettings(cluster=cluster),
            group=STEWARD_GROUP,
            pattern=AUDITED_TOPICS,
            handle=self._handle,
            refuse=self._refuse,
        )

    async def _handle(self, record: Record) -> list[Outgoing]:
        writers = self._writers(record.topic)
        if record.topic == KEYS_TOPIC:
            return [_entry(trail_of_keys(record, writers))]
        # What stands before the record decides what the trail says of it.
        while True:
            try:
                await self._reader.current()
                break
            except KafkaError as error:
                log.warning("the catalogue cannot be followed; it is tried again", error=repr(error))
                await asyncio.sleep(_REST_S)
        return [_entry(one) for one in trail(record, self._reader.catalogue, writers)]

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """A record that three processes died of. There is nobody to answer, and no dead letters of these topics."""
        log.error("a record is left out of the audit trail", topic=record.topic, offset=record.offset)
        return []


def _entry(told: Audited) -> Outgoing:
    return Outgoing(topic=AUDIT_TOPIC, key=told.namespace.encode(), value=AUDITED.encode(told))
