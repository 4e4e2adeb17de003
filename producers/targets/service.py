"""`guideway targets`: results that leave Kafka, posted to webhooks and written into archives.

It reads through the pipeline of delivery/, as the other services do. What is to be tried again is published in one
transaction with the offset of what it was read from, so that nothing is lost and nothing is tried twice over; the post
itself is outside of any transaction, and so at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from guideway.catalogue.archive.rows import row_of
from guideway.catalogue.entries import Identity
from guideway.catalogue.targets.recipients import webhook_of
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.in_flight import refuse_by_dead_letter
from guideway.delivery.intake import UNBOUNDED, Limit
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.producers.targets.archiving import GATHER_S, Archiving
from guideway.producers.targets.webhooks.deliveries import Deliveries, due_in_s
from guideway.producers.targets.webhooks.egress import Egress
from guideway.producers.targets.webhooks.held import HeldWebhooks
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.producers.targets.webhooks.sender import Resolve, Sender
from guideway.producers.targets.webhooks.signing import delivery_id, payload
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.targets import MAX_PAYLOAD_BYTES, ArchiveRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.groups import TARGETS_GROUP
from guideway.schemas.names.service_topics import LEAVING_TOPICS, owner_of_leaving
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.services.leaving import DELAYS_S, Delivery, Result
from guideway.schemas.wire import DELIVERY, RESULT, Undecodable

log = structlog.get_logger(__name__)

_LONGEST_S: Final = DELAYS_S[-1] * 1.2
"""A delivery waits for no longer, whatever it says."""
_RESTING: Final = 64
"""Deliveries of one partition that wait, and are in memory."""


class TargetsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one process of the service."""

    delivery: DeliverySettings
    secrets: Path
    """Folder of the webhooks' secrets."""
    store: str
    """The store of artefacts and archives, any fsspec address."""
    egress: Egress = Egress()
    resolve: Resolve | None = None
    """How hosts are looked up; None: as this machine does."""
    gather_s: float = GATHER_S
    """Rows of an archive wait so long for others to share their object."""

    @property
    def pipeline(self) -> DeliverySettings:
        """An attempt waits for others most of the time, so many may be under way."""
        return msgspec.structs.replace(self.delivery, capacity=1024, resting_capacity=_RESTING)


class ByNamespace:
    """An `Intake`: namespaces share the slots, so that slow receivers of one hold up no other's deliveries."""

    def party(self, topic: str) -> Hashable:
        """The namespace of a topic."""
        of = owner_of_leaving(topic)
        return of[0] if of is not None else ""

    def limits(self, holding: Mapping[Hashable, int]) -> Limit:
        """Nobody is limited but by the slots."""
        return lambda party: UNBOUNDED


class TargetsService:
    """One process of the service. Any number of them share the namespaces of a cluster."""

    def __init__(self, settings: TargetsSettings, reader: CatalogueFollower) -> None:
        self._reader = reader
        self._held = HeldWebhooks(settings.delivery.cluster)
        sender = Sender(settings.egress, settings.resolve)
        self._deliveries = Deliveries(sender, SecretFiles(settings.secrets), self._held)
        self._archiving = Archiving(settings.store, self._rule_of, gather_s=settings.gather_s)
        self.pipeline = Pipeline(
            settings.pipeline,
            group=TARGETS_GROUP,
            pattern=LEAVING_TOPICS,
            handle=self._handle,
            refuse=self._refuse,
            intake=ByNamespace(),
        )

    async def run(self) -> None:
        """Until `stop`. Raises Refusal(broker_unreachable) if the cluster cannot be reached at the start."""
        async with self._held, self._archiving:
            await self.pipeline.run()

    def stop(self, within_s: float | None = None) -> None:
        """Finish the attempts that run, note what came of them, and end `run`."""
        self._archiving.hurry()
        self.pipeline.stop(within_s)

    async def _handle(self, record: Record) -> list[Outgoing]:
        of = owner_of_leaving(record.topic)
        if of is None:
            return []  # a topic that looks like one of ours
        namespace, which = of
        try:
            if which == "results":
                return await self._result(namespace, RESULT.decode(record.value), record)
            return await self._delivery(namespace, DELIVERY.decode(record.value), record)
        except Undecodable:
            # The exact reason would quote the record, and a dead letter keeps its text in one place only.
            why = "the value is none of this version: look who else writes to this topic"
            return [dead_letter(record, FailureCode.UNDECODABLE_REQUEST, why)]
        except Refusal as refusal:
            return [dead_letter(record, refusal.code, refusal.message)]

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """What a record becomes with which process after process died. A delivery that only waited killed none."""
        of = owner_of_leaving(record.topic)
        if of is not None and of[1] == "deliveries":
            with contextlib.suppress(Undecodable):
                if due_in_s(DELIVERY.decode(record.value), record, _LONGEST_S) > 0:
                    return await self._handle(record)
        return await refuse_by_dead_letter(record, refusal)

    async def _delivery(self, namespace: str, delivery: Delivery, record: Record) -> list[Outgoing]:
        async with self.pipeline.assigned.resting(record):
            await asyncio.sleep(due_in_s(delivery, record, _LONGEST_S))
        return await self._deliver(namespace, delivery, record)

    async def _result(self, namespace: str, result: Result, record: Record) -> list[Outgoing]:
        endpoint = await self._reader.eventually(
            lambda catalogue: catalogue.endpoint_at(namespace, result.endpoint, result.endpoint_version)
        )
        found = await asyncio.gather(
            *(self._deliver(namespace, one, record) for one in self._posts(endpoint, result, record)),
            self._archive(endpoint, result, record),
        )
        return [out for outgoing in found for out in outgoing]

    async def _archive(self, endpoint: Endpoint, result: Result, record: Record) -> list[Outgoing]:
        rule = endpoint.archived
        if result.completed and rule is not None:
            row, in_haste = row_of(result, record), self.pipeline.assigned.recovers(record)
            await self._archiving.add(endpoint.namespace, endpoint.name, rule, row, in_haste=in_haste)
        return []

    def _rule_of(self, namespace: str, endpoint: str) -> ArchiveRule | None:
        found = self._reader.catalogue.latest(Identity("endpoint", namespace, endpoint))
        return found[1].archived if found is not None and isinstance(found[1], Endpoint) else None

    def _posts(self, endpoint: Endpoint, result: Result, record: Record) -> list[Delivery]:
        deliveries = []
        for name in endpoint.webhooks:
            found = webhook_of(self._reader.catalogue, endpoint.namespace, name)
            # One that is deleted is told of where it is attempted.
            if found is None or found[1].wants(completed=result.completed):
                largest = found[1].max_payload_bytes if found is not None else MAX_PAYLOAD_BYTES
                body = payload(result, endpoint.namespace, record.timestamp_ms, largest)
                key = delivery_id(record, name)
                deliveries.append(Delivery(webhook=name, id=key, since_ms=record.timestamp_ms, payload=body))
        return deliveries

    async def _deliver(self, namespace: str, delivery: Delivery, record: Record) -> list[Outgoing]:
        return await self._deliveries.deliver(namespace, delivery, record, self._reader.catalogue)
