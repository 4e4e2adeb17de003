"""The endpoint service: reads events from endpoint topics and general addresses, and publishes requests to workers.

Each event becomes one request, exactly once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import structlog

from guideway.catalogue.access import OF_THE_EVENT, called_endpoint, told_to_others
from guideway.catalogue.entries import Identity
from guideway.catalogue.targets.leaving import leaving
from guideway.catalogue.targets.recipients import copies_to
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.guards import record_guards
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replies import distinct, failed, reply_records, shorter
from guideway.delivery.settings import MAX_RECORD_BYTES, DeliverySettings
from guideway.delivery.telling.refusal_trail import RefusalTrail
from guideway.delivery.telling.usage_teller import UsageTeller
from guideway.producers.events.addressee import Addressee, addressee
from guideway.producers.events.envelope import Envelope, read_envelope, readable
from guideway.producers.events.partials import check_partial
from guideway.producers.events.read_event import deadline_ms, read_event
from guideway.producers.intake.cancelled_ahead import CancelledAhead
from guideway.producers.intake.event_intake import EventIntake
from guideway.producers.intake.lane_watch import LaneWatch
from guideway.producers.intake.look_ahead import LookAhead
from guideway.producers.intake.owned_part import OwnedPart
from guideway.producers.intake.shares import QUEUE
from guideway.producers.marshalling.marshal import deadline_of, marshal
from guideway.producers.marshalling.rendering import Rendering
from guideway.producers.routing.questions import Questions
from guideway.producers.routing.routing import Routing
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.addresses import CALL, endpoint_address
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.names.groups import ENDPOINTS_GROUP
from guideway.schemas.names.topics import (
    EVENT_TOPICS,
    cancellation_topic,
    endpoint_of_topic,
    is_reply_topic_of,
    lane_for,
    own_reply_topic,
    reply_topic,
    request_topic,
    sender_of_topic,
)
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Failed
from guideway.schemas.request import ReplyAddress
from guideway.schemas.services.cancellation import Cancellation, cancelled_by_caller
from guideway.schemas.wire import CANCELLATION, REQUEST

log = structlog.get_logger(__name__)


class EndpointService:
    """One process of the service. Any number of them share the endpoint topics of a cluster."""

    def __init__(self, settings: DeliverySettings, reader: CatalogueFollower, *, queue: int = QUEUE) -> None:
        """`queue`: how many requests of each lane may wait for or be in each worker."""
        self._reader, self._cluster = reader, settings.cluster
        self._rendering = Rendering()
        part = OwnedPart(lambda: self.pipeline)
        self._intake = EventIntake(reader, queue=queue, part=part)
        self.pipeline = Pipeline(
            settings,
            group=ENDPOINTS_GROUP,
            pattern=EVENT_TOPICS,
            handle=self._handle,
            refuse=self._refuse_unseen,
            intake=self._intake,
            on_published=self._published,
        )
        self._watch = LaneWatch(settings.cluster, self._intake.shares, self.pipeline)
        self._cancelled = CancelledAhead()
        self._trail = RefusalTrail("endpoints")
        self._ahead = LookAhead(settings.cluster, self.pipeline, self._cancelled, self._cancellation_ahead)
        self._questions = Questions(settings.cluster)
        self._routing = Routing(reader, self._intake, self._questions, self.pipeline.topics, self._watch.look)

    async def run(self) -> None:
        """Until `pipeline.stop()`."""
        record_guards.limit_inflated(self._intake.inflated_bytes)
        telling = UsageTeller(self._cluster, self.pipeline.topics, "endpoints", self._intake.used)
        async with self._watch, self._ahead, self._questions, telling:
            await self.pipeline.run()

    def _published(self, topic: str, placed: Sequence[tuple[Outgoing, Any]]) -> None:
        for size in self._intake.published(topic, placed):
            self._watch.look(size)

    async def _handle(self, record: Record) -> list[Outgoing]:
        """What to publish for one event: its request, its cancellation, or its refusal."""
        envelope = read_envelope(record)
        to: Addressee | None = None
        try:
            to = addressee(envelope)
            if to is None and envelope.cancels is not None:
                self._ahead.reached(record, envelope.cancels)
                return await self._cancellations_of_routed(record, envelope.cancels)
            to = to or await self._routing.routed(envelope, self.pipeline.assigned.resting(record))
            version, endpoint = await self._called(to)
            if envelope.cancels is not None:
                self._ahead.reached(record, envelope.cancels)
                self._intake.cancel(to.caller)
                return [await self._cancellation(envelope.cancels, endpoint, to)]
            if endpoint_of_topic(record.topic) is not None:
                return [await self._request(envelope, endpoint, version, to)]
            waits, wait_s = self.pipeline.assigned.resting(record), _left_s(envelope, endpoint)
            alone = self.pipeline.assigned.in_single_file(record)
            async with self._intake.let_in(to.caller, endpoint, record.topic, waits, wait_s, in_single_file=alone):
                # It may have waited for long.
                version, endpoint = await self._called(to)
                return [await self._request(envelope, endpoint, version, to)]
        except Refusal as refusal:
            return await self._refuse(envelope, refusal, to)
        except Exception as error:
            log.exception("event failed", topic=record.topic, partition=record.partition, offset=record.offset)
            return await self._refuse(envelope, our_fault(error, "the endpoint service"), to)

    async def _called(self, to: Addressee) -> tuple[int, Endpoint]:
        """(version, endpoint). Raises Refusal: `not_allowed`, `unknown_endpoint`."""
        version, endpoint = await self._reader.eventually(
            lambda catalogue: called_endpoint(catalogue, to.namespace, to.name, caller=to.caller)
        )
        self._intake.require_within_limits(endpoint)
        return version, endpoint

    async def _request(self, envelope: Envelope, endpoint: Endpoint, version: int, to: Addressee) -> Outgoing:
        record, event = envelope.record, read_event(envelope, endpoint.input)
        if self._cancelled.cancels(to.caller, record.topic, event.id, record.timestamp_ms):
            raise cancelled_by_caller()
        self._intake.begin(to.caller)
        # Its topics stay when a model goes, and nobody would answer there.
        await self._reader.eventually(lambda catalogue: catalogue.model(endpoint.model_size))
        own = ReplyAddress(topic=own_reply_topic(record.topic))
        caller = await checked_reply_address(event.reply_to, to.caller, self.pipeline.topics) or own
        self._intake.use(to.caller, caller.topic)
        if event.partial:
            await check_partial(caller, record, self.pipeline.topics)
        # What others ask, and what they are answered, is theirs: the endpoint's owner gets no copy.
        targets = copies_to(endpoint, self._reader.catalogue) if to.foreign_caller is None else []
        reply_to = distinct([caller, *targets])
        rendered = await self._rendering.render(event, endpoint, to.caller)
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
                caller=to.foreign_caller,
            )
        )
        self._intake.count(request)
        topic = request_topic(endpoint.model_size, lane_for(record.topic, endpoint.lane))
        await self._require(topic, endpoint.model_size)
        headers = [*record.headers_named(header.ECHOED_HEADERS), (header.CONTENT_TYPE, b"application/json")]
        outgoing = Outgoing(topic=topic, key=record.key, value=REQUEST.encode(request), headers=headers)
        if outgoing.size_bytes > MAX_RECORD_BYTES:
            raise Refusal(
                FailureCode.TEXT_TOO_LONG,
                f"the request has {outgoing.size_bytes} bytes, {MAX_RECORD_BYTES} can be sent: "
                + shorter(outgoing, "shorten the text"),
            )
        return outgoing

    async def _cancellation(self, cancelled: str, endpoint: Endpoint, to: Addressee) -> Outgoing:
        """The message that cancels a request.

        It goes to all workers of the endpoint's present size: nobody knows which of them has the request, or will have
        it.
        """
        topic = cancellation_topic(endpoint.model_size)
        await self._require(topic, endpoint.model_size)
        message = Cancellation(
            id=cancelled, namespace=endpoint.namespace, endpoint=endpoint.name, caller=to.foreign_caller
        )
        return Outgoing(topic=topic, partition=0, value=CANCELLATION.encode(message))

    async def _cancellations_of_routed(self, record: Record, cancelled: str) -> list[Outgoing]:
        """The messages that cancel an event that the router has sent to one of its endpoints: nobody knows to which."""
        found = []
        for to in self._routing.addressees(sender_of_topic(record.topic)):
            with contextlib.suppress(Refusal):
                found.append(await self._cancellation(cancelled, (await self._called(to))[1], to))
        return found

    async def _cancellation_ahead(self, record: Record, cancelled: str) -> Outgoing | None:
        with contextlib.suppress(Refusal):
            if (to := addressee(read_envelope(record))) is not None:
                _, endpoint = called_endpoint(self._reader.catalogue, to.namespace, to.name, caller=to.caller)
                if self._intake.may_cancel_ahead(to.caller):
                    return await self._cancellation(cancelled, endpoint, to)
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
        envelope, to = read_envelope(record), None
        with contextlib.suppress(Refusal):
            to = addressee(envelope)
        return await self._refuse(envelope, refusal, to)

    async def _refuse(self, envelope: Envelope, refusal: Refusal, to: Addressee | None) -> list[Outgoing]:
        """A failed reply to where the caller wants it, else to the topic's own, else a dead letter.

        to: the endpoint that is called; None: that cannot be told.
        """
        record, topics = envelope.record, self.pipeline.topics
        caller = sender_of_topic(record.topic)
        what = "" if to is None else endpoint_address(to.namespace, to.name)
        told = await self._trail.of(record, refusal, namespace=caller, what=what, topics=topics)
        if to is not None and to.foreign_caller is not None:
            refusal = told_to_others(refusal, to.namespace, verbatim=OF_THE_EVENT)
        address: ReplyAddress | None = None
        with contextlib.suppress(Refusal):
            address = await checked_reply_address(readable(envelope.reply_to), caller, topics)
        if address is None:
            address = ReplyAddress(topic=own_reply_topic(record.topic))
            if not await topics.partitions(address.topic):
                # The refusal's own words may quote the record, and dead letters keep its text in one place only.
                why = f"refused, and there is no topic {address.topic} to say why"
                return [dead_letter(record, refusal.code, why), *told]
        namespace, name = (caller, CALL) if to is None else (to.namespace, to.name)
        reply = failed(envelope.id, namespace, name, refusal)
        message = REPLY_MESSAGE if isinstance(envelope.reply_message, str) else None
        replies = reply_records(reply, [address], record, message=message)
        return [*replies, *self._leaving(reply, to, record), *told]

    def _leaving(self, reply: Failed, to: Addressee | None, record: Record) -> list[Outgoing]:
        """What webhooks of the endpoint learn of a refusal of its own namespace's event."""
        if to is None or to.foreign_caller is not None:
            return []
        found = self._reader.catalogue.latest(Identity("endpoint", to.namespace, to.name))
        if found is None or not isinstance(found[1], Endpoint):
            return []
        return leaving(reply, found[1], found[0], record, text=None)


def _left_s(envelope: Envelope, endpoint: Endpoint) -> float | None:
    """Seconds until the event's deadline; None: it has none. Raises Refusal(invalid_header)."""
    now_ms = time.time_ns() // 1_000_000
    until_ms = deadline_of(deadline_ms(envelope.record), endpoint, envelope.written_ms(now_ms))
    return None if until_ms is None else max(0, until_ms - now_ms) / 1000


async def checked_reply_address(
    wanted: ReplyAddress | None, namespace: str, topics: TopicDirectory
) -> ReplyAddress | None:
    """`wanted`, if the caller may have replies there and the topic exists. Raises Refusal(reply_address_refused)."""
    if wanted is None:
        return None
    if not is_reply_topic_of(wanted.topic, namespace):
        raise Refusal(
            FailureCode.REPLY_ADDRESS_REFUSED,
            f"replies of namespace {namespace} go to topics {reply_topic(namespace, 'NAME')} only: name one of these",
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
