"""The endpoint service: reads events from endpoint topics and publishes requests to workers, exactly once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import structlog

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replies import distinct, failed, reply_records, shorter
from guideway.delivery.settings import MAX_RECORD_BYTES, DeliverySettings
from guideway.producers.events.envelope import Envelope, read_envelope, readable
from guideway.producers.events.read_event import read_event
from guideway.producers.intake.cancelled_ahead import CancelledAhead
from guideway.producers.intake.event_intake import EventIntake, endpoint_of
from guideway.producers.intake.lane_watch import LaneWatch
from guideway.producers.intake.look_ahead import LookAhead
from guideway.producers.intake.shares import QUEUE, Shares
from guideway.producers.marshalling.marshal import marshal
from guideway.producers.marshalling.rendering import Rendering
from guideway.schemas import names
from guideway.schemas.cancellation import Cancellation, cancelled_by_caller
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.manifests import Endpoint
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.request import ReplyAddress
from guideway.schemas.wire import CANCELLATION, REQUEST

log = structlog.get_logger(__name__)


class EndpointService:
    """One process of the service. Any number of them share the endpoint topics of a cluster."""

    def __init__(self, settings: DeliverySettings, reader: CatalogueFollower, *, queue: int = QUEUE) -> None:
        """`queue`: how many requests of each lane may wait for or be in each worker."""
        self._reader = reader
        self._rendering = Rendering()
        shares = Shares(queue=queue)
        self._intake = EventIntake(reader, shares)
        self.pipeline = Pipeline(
            settings,
            group=names.ENDPOINTS_GROUP,
            pattern=names.EVENT_TOPICS,
            handle=self._handle,
            refuse=self._refuse_unseen,
            intake=self._intake,
            on_published=self._published,
        )
        self._watch = LaneWatch(settings.bootstrap, shares, self.pipeline)
        self._cancelled = CancelledAhead()
        self._ahead = LookAhead(settings.bootstrap, self.pipeline, self._cancelled, self._cancellation_ahead)

    async def run(self) -> None:
        """Until `pipeline.stop()`."""
        async with self._watch, self._ahead:
            await self.pipeline.run()

    def _published(self, topic: str, placed: Sequence[tuple[Outgoing, Any]]) -> None:
        for size in self._intake.published(topic, placed):
            self._watch.look(size)

    async def _handle(self, record: Record) -> list[Outgoing]:
        """What to publish for one event: its request, its cancellation, or its refusal."""
        envelope = read_envelope(record)
        namespace, name = endpoint_of(record.topic)
        try:
            version, endpoint = await self._reader.eventually(lambda catalogue: catalogue.endpoint(namespace, name))
            if envelope.cancels is not None:
                self._ahead.reached(record, envelope.cancels)
                return [await self._cancellation(envelope.cancels, endpoint)]
            return [await self._request(envelope, endpoint, version)]
        except Refusal as refusal:
            return await self._refuse(envelope, refusal)
        except Exception as error:
            log.exception("event failed", topic=record.topic, partition=record.partition, offset=record.offset)
            return await self._refuse(envelope, our_fault(error, "the endpoint service"))

    async def _request(self, envelope: Envelope, endpoint: Endpoint, version: int) -> Outgoing:
        record, event = envelope.record, read_event(envelope)
        if self._cancelled.cancels(endpoint.namespace, record.topic, event.id, record.timestamp_ms):
            raise cancelled_by_caller()
        # Its topics stay when a model goes, and nobody would answer there.
        await self._reader.eventually(lambda catalogue: catalogue.model(endpoint.model_size))
        own = ReplyAddress(topic=names.reply_topic(endpoint.namespace, endpoint.name))
        caller = await checked_reply_address(event.reply_to, endpoint.namespace, self.pipeline.topics) or own
        targets = [ReplyAddress(topic=names.reply_topic(endpoint.namespace, name)) for name in endpoint.targets]
        reply_to = distinct([caller, *targets])
        rendered = await self._rendering.render(event, endpoint)
        request = await self._reader.eventually(
            lambda catalogue: marshal(
                event,
                endpoint,
                version,
                catalogue,
                reply_to=reply_to,
                now_ms=(now_ms := time.time_ns() // 1_000_000),
                written_ms=envelope.written_ms(now_ms),
                rendered=rendered,
            )
        )
        topic = names.request_topic(endpoint.model_size, endpoint.lane)
        await self._require(topic, endpoint.model_size)
        headers = [*record.headers_named(names.ECHOED_HEADERS), (names.CONTENT_TYPE, b"application/json")]
        outgoing = Outgoing(topic=topic, key=record.key, value=REQUEST.encode(request), headers=headers)
        if outgoing.size_bytes > MAX_RECORD_BYTES:
            raise Refusal(
                FailureCode.TEXT_TOO_LONG,
                f"the request has {outgoing.size_bytes} bytes, {MAX_RECORD_BYTES} can be sent: "
                + shorter(outgoing, "shorten the text"),
            )
        return outgoing

    async def _cancellation(self, cancelled: str, endpoint: Endpoint) -> Outgoing:
        """The message that cancels a request.

        It goes to all workers of the endpoint's present size: nobody knows which of them has the request, or will have
        it.
        """
        topic = names.cancellation_topic(endpoint.model_size)
        await self._require(topic, endpoint.model_size)
        message = Cancellation(id=cancelled, namespace=endpoint.namespace, endpoint=endpoint.name)
        return Outgoing(topic=topic, partition=0, value=CANCELLATION.encode(message))

    async def _cancellation_ahead(self, record: Record, cancelled: str) -> Outgoing | None:
        namespace, name = endpoint_of(record.topic)
        with contextlib.suppress(Refusal):
            return await self._cancellation(cancelled, self._reader.catalogue.endpoint(namespace, name)[1])
        # Whoever reaches the tombstone answers what is wrong.
        return None

    async def _require(self, topic: str, size: str) -> None:
        if not await self.pipeline.topics.partitions(topic):
            raise Refusal(
                FailureCode.UNKNOWN_MODEL_SIZE,
                f"model size {size!r} has no topic {topic}: apply a model of that name, or run `guideway topics apply`",
            )

    async def _refuse_unseen(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """The refusal of an event that killed process after process of the service."""
        return await self._refuse(read_envelope(record), refusal)

    async def _refuse(self, envelope: Envelope, refusal: Refusal) -> list[Outgoing]:
        """A failed reply to where the caller wants it, else to the endpoint's own topic, else a dead letter."""
        record, topics = envelope.record, self.pipeline.topics
        namespace, name = endpoint_of(record.topic)
        address: ReplyAddress | None = None
        with contextlib.suppress(Refusal):
            address = await checked_reply_address(readable(envelope.reply_to), namespace, topics)
        if address is None:
            address = ReplyAddress(topic=names.reply_topic(namespace, name))
            if not await topics.partitions(address.topic):
                # The refusal's own words may quote the record, and dead letters keep its text in one place only.
                return [dead_letter(record, refusal.code, f"refused, and there is no topic {address.topic} to say why")]
        return reply_records(failed(envelope.id, namespace, name, refusal), [address], record)


async def checked_reply_address(
    wanted: ReplyAddress | None, namespace: str, topics: TopicDirectory
) -> ReplyAddress | None:
    """`wanted`, if the caller may have replies there and the topic exists. Raises Refusal(reply_address_refused)."""
    if wanted is None:
        return None
    if not names.is_reply_topic_of(wanted.topic, namespace):
        raise Refusal(
            FailureCode.REPLY_ADDRESS_REFUSED,
            f"replies of namespace {namespace} go to topics {names.reply_topic(namespace, 'NAME')} only: name one of "
            "these",
        )
    partitions = await topics.partitions(wanted.topic)
    if not partitions:
        raise Refusal(FailureCode.REPLY_ADDRESS_REFUSED, f"reply topic {wanted.topic} does not exist: create it")
    if wanted.partition is not None and wanted.partition >= partitions:
        raise Refusal(
            FailureCode.REPLY_ADDRESS_REFUSED,
            f"reply topic {wanted.topic} has {partitions} partitions, none of number {wanted.partition}: name "
            "one of these, or none",
        )
    return wanted
