"""Calls of all doors, made as any caller makes them: an event on the general address, and its reply awaited.

A request that must be found again is claimed first, on the topic of its namespace's accepted requests, which every
gateway follows. So any gateway knows it, and of several that get the same idempotency key one publishes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from guideway.delivery.clients.kafka_client import make_producer, started, unreachable
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.call import Call, id_of, made_ms, require_small_headers
from guideway.producers.gateway.known import LEASE_S, Entry, is_over, replaceable
from guideway.producers.gateway.pending import Pending, gone
from guideway.producers.gateway.reading import KEPT_MARK, Reading
from guideway.producers.gateway.room import Room
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.addresses import GATEWAY
from guideway.schemas.names.clients import client_id
from guideway.schemas.names.service_topics import KEYS_TOPIC, accepted_topic
from guideway.schemas.names.topics import call_topic, reply_topic
from guideway.schemas.record import Headers
from guideway.schemas.services.accepted import KEPT_S, Accepted, Claim, Published
from guideway.schemas.wire import ACCEPTED

_LOOK_S: Final = 0.05
_MOST_CLAIMS: Final = 4
"""Of one process to one request at a time."""
MAX_EVENT_BYTES: Final = 8 * 2**20 - 2**16
"""The largest event with its headers: what topics take, less what a record costs."""


class Calls:
    """`async with Calls(cluster, room) as calls:` – on entry all is known that gateways accepted; one for a process. It
    owns the producer."""

    def __init__(self, cluster: Cluster, room: Room, *, limit: int = 100_000) -> None:
        """room: of the process, for what waits for clients. limit: how many accepted requests are remembered."""
        self._cluster = cluster
        self._topics = TopicDirectory(cluster, client_id("gateway"))
        self._reading = Reading(cluster, room, limit=limit)
        self._publishing: set[asyncio.Task[Pending]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Calls:
        """Raises Refusal(broker_unreachable)."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(started(self._topics, self._cluster))
            producer = make_producer(self._cluster, "gateway", linger_ms=2, max_request_size=MAX_EVENT_BYTES + 2**16)
            self._producer = await stack.enter_async_context(started(producer, self._cluster))
            await stack.enter_async_context(self._reading)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*self._publishing, return_exceptions=True)
        await self._stack.aclose()

    @property
    def waiting(self) -> int:
        """How many replies are awaited here."""
        return self._reading.waiting

    async def begin(self, call: Call) -> Pending:
        """Publish the event, or find the request that has the caller's idempotency key already.

        Returns when all replicas in sync have it. Raises: Refusal (invalid_header, text_too_long, invalid_setting,
        broker_unreachable, not_allowed); DoorRefusal(idempotency_key_reused).
        """
        require_small_headers(call)
        request_id, correlation = id_of(call), secrets.token_hex(16)
        await self._require(call.namespace)
        claim = Claim(
            id=request_id,
            at_ms=_now_ms(),
            address=call.address,
            fingerprint=call.fingerprint if call.kept else "",
            correlation=correlation + (KEPT_MARK if call.kept else ""),
        )
        if not call.kept:
            return await self._published(call, claim)
        if call.idempotency_key is None and call.request_id is None:
            # Nobody else can have this id.
            publishing = self._go_on(self._published(call, claim))
            try:
                await self._note(call.namespace, claim)
                return await asyncio.shield(publishing)
            except BaseException:
                publishing.add_done_callback(_left)
                raise
        return await self._once(call, claim)

    async def claimed(self, namespace: str, id_: str, fingerprint: str) -> bool:
        """Claim an id for what this fingerprint is of; whether nobody has claimed it before, at any gateway.

        Raises: DoorRefusal(idempotency_key_in_use) where it is claimed for something else; Refusal as `begin`.
        """
        await self._require(namespace)
        own, known = secrets.token_hex(16), self._reading.known
        if (found := known.find(namespace, id_)) is None or is_over(found[0], _now_ms()):
            after = found and found[0].claim.correlation
            claim = Claim(id=id_, at_ms=_now_ms(), address=None, fingerprint=fingerprint, correlation=own, after=after)
            await self._note(namespace, claim)
            found = known.find(namespace, id_)
        if found and found[0].claim.fingerprint != fingerprint:
            message = "another request with this idempotency key is being accepted: give each request its own"
            raise DoorRefusal(DoorCode.IDEMPOTENCY_KEY_IN_USE, message)
        return not found or found[0].claim.correlation == own

    async def find(self, namespace: str, request_id: str) -> Pending:
        """A kept request of this namespace, whichever gateway has accepted it.

        Raises DoorRefusal: unknown_request, request_gone.
        """
        await self._reading.follow(namespace)
        found = self._reading.known.find(namespace, request_id)
        if found is None:
            # Another gateway may have accepted it a moment ago.
            await self._reading.current()
            found = self._reading.known.find(namespace, request_id)
        now_ms = _now_ms()
        if found is None:
            made = made_ms(request_id)
            if made is not None and made < now_ms - KEPT_S * 1000:
                raise gone()
            raise DoorRefusal(
                DoorCode.UNKNOWN_REQUEST,
                f"namespace {namespace} has no request with this id that is kept: send it with "
                "`Prefer: respond-async` or with an idempotency key to find it again",
            )
        entry, place = found
        if place is None and entry.claim.at_ms < now_ms - KEPT_S * 1000:
            raise gone()
        return self._pending(namespace, entry.claim)

    async def require_brokers(self, timeout_s: float = 5) -> None:
        """Raises Refusal(broker_unreachable) where they have not answered of late."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._topics.partitions(KEYS_TOPIC)
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._cluster, error, connected=True) from None

    # Publishing ------------------------------------------------------------------------------------------------------

    async def _once(self, call: Call, claim: Claim) -> Pending:
        """Publish it unless somebody has: whose claim counts is the same for all who follow the topic."""
        await self._reading.follow(call.namespace)
        known, notes, claimed_at = self._reading.known, 0, time.monotonic()
        while (found := known.find(call.namespace, claim.id)) is None or found[0].claim != claim:
            now_ms = _now_ms()
            if found is not None:
                entry, place = found
                if not is_over(entry, now_ms):
                    _require_same(entry, claim, call)
                if not replaceable(entry, place, now_ms, time.monotonic()):
                    if entry.published or place is not None:
                        return self._pending(call.namespace, entry.claim)
                    # Whoever claims it may be dead before it publishes: until then nothing is accepted.
                    await asyncio.sleep(_LOOK_S)
                    continue
                claim = msgspec.structs.replace(claim, at_ms=now_ms, after=entry.claim.correlation)
            notes += 1
            if notes > _MOST_CLAIMS:
                # So many are accepted meanwhile that it is pushed out, or others are always sooner.
                raise DoorRefusal(DoorCode.BUSY, "too many requests are accepted at a time: send it again")
            claimed_at = time.monotonic()
            await self._note(call.namespace, claim)
        # From before it was written, by the clock of whoever wrote it: others read it later.
        if time.monotonic() - claimed_at > LEASE_S / 2:
            raise DoorRefusal(DoorCode.BUSY, "the brokers are too slow for this to be published in time: send it again")
        publishing = self._go_on(self._published_and_noted(call, claim))
        try:
            return await asyncio.shield(publishing)
        except asyncio.CancelledError:
            publishing.add_done_callback(_left)
            raise

    def _go_on(self, publishing: Coroutine[Any, Any, Pending]) -> asyncio.Task[Pending]:
        """It, whoever leaves meanwhile: an event that nobody has noted would be published again."""
        task = asyncio.create_task(publishing, name="publish what was claimed")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return task

    async def _published_and_noted(self, call: Call, claim: Claim) -> Pending:
        pending = await self._published(call, claim)
        try:
            await self._note(call.namespace, Published(id=claim.id, at_ms=_now_ms(), correlation=claim.correlation))
        except BaseException:
            pending.leave()
            raise
        return pending

    async def _note(self, namespace: str, note: Accepted) -> None:
        """Write it, and wait until it is read."""
        topic = accepted_topic(namespace)
        try:
            placed = await self._producer.send_and_wait(topic, key=note.id.encode(), value=ACCEPTED.encode(note))
            await self._reading.seen(topic, placed.partition, placed.offset)
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._cluster, error, connected=True) from None

    async def _published(self, call: Call, claim: Claim) -> Pending:
        headers = [
            (header.CORRELATION_ID, claim.correlation.encode()),
            (header.REPLY_TO, reply_topic(call.namespace, GATEWAY).encode()),
            (header.REQUEST_ID, claim.id.encode()),
            *_addressed(call.address),
            *call.event_headers,
        ]
        pending = self._pending(call.namespace, claim)
        if not call.kept:
            # Before it is published: the reply may be there before the brokers have said that they have the event.
            pending.expect()
        if call.partial:
            headers.append((header.PARTIAL, b"true"))
            pending.expect_pieces()
        try:
            await self._send(call.namespace, call.key, call.content, headers)
        except BaseException:
            pending.leave()
            raise
        return pending

    def _pending(self, namespace: str, claim: Claim) -> Pending:
        return Pending(self._reading, namespace, claim, self._publish_cancellation)

    async def _publish_cancellation(self, pending: Pending) -> None:
        headers = [(header.CANCEL, pending.id.encode()), *_addressed(pending.address)]
        # With a key: aiokafka refuses a record without key and value.
        await self._send(pending.namespace, pending.id.encode(), None, headers)

    async def _send(self, namespace: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        try:
            await self._producer.send_and_wait(call_topic(namespace), key=key, value=value, headers=headers)
        except MessageSizeTooLargeError:
            raise Refusal(
                FailureCode.TEXT_TOO_LONG,
                f"the content has {len(value or b'')} bytes, and with its headers that is more than an event may have: "
                "shorten it",
            ) from None
        except KafkaError as error:
            raise unreachable(self._cluster, error, connected=True) from None

    async def _require(self, namespace: str) -> None:
        """Raises Refusal: invalid_setting where the namespace has no topics for gateways; broker_unreachable."""
        await self.require_topics(namespace, call_topic(namespace), reply_topic(namespace, GATEWAY))
        await self._reading.follow(namespace)

    async def require_topics(self, namespace: str, *topics: str) -> None:
        """Raises Refusal: invalid_setting where the namespace lacks one of its topics; broker_unreachable."""
        for topic in topics:
            try:
                exists = await self._topics.partitions(topic)
            except KafkaError as error:
                raise unreachable(self._cluster, error) from None
            if not exists:
                raise Refusal(
                    FailureCode.INVALID_SETTING,
                    f"namespace {namespace} has no topic {topic}, or the gateway may not see it: run "
                    "`guideway topics apply`, or have its rights given (`guideway services create`)",
                )


def _left(publishing: asyncio.Task[Pending]) -> None:
    """Nobody waits for what this has published."""
    if not publishing.cancelled() and publishing.exception() is None:
        publishing.result().leave()


def _addressed(address: str | None) -> list[tuple[str, bytes]]:
    return [] if address is None else [(header.ENDPOINT, address.encode())]


def _require_same(entry: Entry, claim: Claim, call: Call) -> None:
    if entry.claim.fingerprint != claim.fingerprint:
        what = "idempotency key was used with another request to the same endpoint: give each request its own"
        if call.idempotency_key is None:
            what = "id was used with another event of the namespace: give each event its own"
        raise DoorRefusal(DoorCode.IDEMPOTENCY_KEY_REUSED, f"this {what}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
