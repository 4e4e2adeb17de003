"""What a gateway reads, of all namespaces with one consumer: replies, pieces of texts, and what gateways accepted."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import as_record, unreachable
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.client.partial_reader import MOST_PIECES
from guideway.producers.gateway.known import Known, Place
from guideway.producers.gateway.replies import Answer, Lookups, answer_of
from guideway.producers.gateway.room import Held, Room
from guideway.producers.gateway.status import status_of
from guideway.schemas.names import header
from guideway.schemas.names.addresses import GATEWAY
from guideway.schemas.names.service_topics import owner_of_accepted
from guideway.schemas.names.topics import owner_of_gateway_partials, owner_of_gateway_replies, reply_topic
from guideway.schemas.partial import Partial
from guideway.schemas.record import Record
from guideway.schemas.services.accepted import KEPT_S
from guideway.schemas.wire import ACCEPTED, PARTIAL, Undecodable

log = structlog.get_logger(__name__)

KEPT_MARK: Final = ".k"
"""At the end of a correlation id: the reply is to be found again."""
_BESIDE_TEXT: Final = 500
"""Bytes of a piece that waits, beside its text."""
_EXPIRE_EVERY_S: Final = 60.0
_SEEN_S: Final = 10.0
_CURRENT_S: Final = 3.0


class Pieces(asyncio.Queue[Partial]):
    """The pieces of one request that nobody has taken yet, and what is held of those that were taken."""

    def __init__(self, held: Held) -> None:
        """held: it is this object's from now on."""
        super().__init__(MOST_PIECES)
        self.held = held

    def offer(self, piece: Partial) -> None:
        """Take it, if there is room. If not, what it says comes with the reply."""
        if not self.full() and self.held.spare(sys.getsizeof(piece.text) + _BESIDE_TEXT):
            self.put_nowait(piece)

    def _get(self) -> Partial:
        # Its text is kept until all of them are put together.
        self.held.less(_BESIDE_TEXT)
        return super()._get()

    def close(self) -> None:
        """Nobody wants them any more."""
        self.held.close()


class Reading:
    """`async with Reading(cluster) as reading:` – on entry all is known that gateways accepted, then it is followed.

    Owner of what is known, and of who waits for which reply.
    """

    def __init__(self, cluster: Cluster, room: Room, *, limit: int) -> None:
        """limit: how many accepted requests are remembered."""
        self._cluster, self._room = cluster, room
        self.known = Known(limit=limit)
        self._waiting: dict[tuple[str, str], set[asyncio.Future[Answer]]] = {}
        self._pieces: dict[tuple[str, str], Pieces] = {}
        self._lookups = Lookups(cluster)
        reader = TopicReader(cluster, "gateway", _is_followed, self._take, made_anew=self._made_anew)
        self._follower = TopicFollower(reader)
        self._expired_at = 0.0

    async def __aenter__(self) -> Reading:
        """Raises Refusal(broker_unreachable)."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._lookups)
            await stack.enter_async_context(self._follower.followed())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def waiting(self) -> int:
        """How many replies are awaited here."""
        return len(self._waiting)

    async def follow(self, namespace: str) -> None:
        """See that its topics are read: it may have been made a moment ago. Raises Refusal(broker_unreachable)."""
        if reply_topic(namespace, GATEWAY) not in self._follower.topics:
            try:
                await self._follower.find()
            except KafkaError as error:
                raise unreachable(self._cluster, error) from None

    async def current(self) -> None:
        """Wait until all is read that the topics hold now; who asks at a time shares the question. Never raises."""
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(_CURRENT_S):
                await self._follower.current()

    async def seen(self, topic: str, partition: int, offset: int) -> None:
        """Wait until this record was read. Raises: KafkaError; TimeoutError."""
        async with asyncio.timeout(_SEEN_S):
            await self._follower.seen(offset, partition, topic)

    def expect(self, namespace: str, correlation: str) -> asyncio.Future[Answer]:
        """A future for the next reply with this correlation id."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((namespace, correlation), set()).add(future)
        return future

    def leave(self, namespace: str, correlation: str, future: asyncio.Future[Answer]) -> None:
        """Nobody waits for this future any more."""
        if (waiting := self._waiting.get((namespace, correlation))) is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[namespace, correlation]

    def expect_pieces(self, namespace: str, correlation: str) -> Pieces:
        """The pieces with this correlation id, as they come, until `drop_pieces`. They may be repeated or missing.

        Close it.
        """
        self._pieces[namespace, correlation] = made = self.no_pieces(namespace)
        return made

    def no_pieces(self, namespace: str) -> Pieces:
        """For a request of which none are told. Close it."""
        return Pieces(self._room.held(namespace))

    def drop_pieces(self, namespace: str, correlation: str) -> None:
        """Nobody expects these any more."""
        self._pieces.pop((namespace, correlation), None)

    async def read(self, namespace: str, correlation: str, place: Place) -> Answer | None:
        """A reply that stands there; None: it is not kept any more. Raises Refusal(broker_unreachable)."""
        return await self._lookups.read(reply_topic(namespace, GATEWAY), correlation, place)

    def _take(self, records: Sequence[Any]) -> None:
        for one in records:
            record = as_record(one)
            if (owner := owner_of_gateway_replies(record.topic)) is not None:
                self._take_reply(owner, record)
            elif (owner := owner_of_gateway_partials(record.topic)) is not None:
                self._take_piece(owner, record)
            elif (owner := owner_of_accepted(record.topic)) is not None:
                self._take_note(owner, record)
        now = time.monotonic()
        if now - self._expired_at > _EXPIRE_EVERY_S:
            self._expired_at = now
            self.known.expire(int((time.time() - 2 * KEPT_S) * 1000))

    def _take_reply(self, namespace: str, record: Record) -> None:
        correlation = (record.header(header.CORRELATION_ID) or b"").decode("ascii", "replace")
        kept = correlation.endswith(KEPT_MARK)
        waiting = self._waiting.pop((namespace, correlation), ())
        if not kept and not waiting:
            return
        answer = answer_of(record)
        if kept:
            final = answer.failure is None or not status_of(answer.failure).retryable
            self.known.replied(namespace, correlation, Place(record.partition, record.offset, final))
            self._lookups.remember(record.topic, correlation, answer)
        for future in waiting:
            if not future.done():
                future.set_result(answer)

    def _take_piece(self, namespace: str, record: Record) -> None:
        # By the header only: pieces that are not for this process are not decoded.
        correlation = (record.header(header.CORRELATION_ID) or b"").decode("ascii", "replace")
        if (expected := self._pieces.get((namespace, correlation))) is None:
            return
        try:
            expected.offer(PARTIAL.decode(record.value))
        except Undecodable as error:
            log.warning("no piece of this version", topic=record.topic, offset=record.offset, reason=str(error))

    def _take_note(self, namespace: str, record: Record) -> None:
        try:
            self.known.take(namespace, ACCEPTED.decode(record.value), time.monotonic())
        except Undecodable as error:
            log.warning("no note of this version", topic=record.topic, offset=record.offset, reason=str(error))

    def _made_anew(self, topic: str) -> None:
        if (owner := owner_of_gateway_replies(topic)) is not None:
            self.known.forget_replies(owner)
        elif (owner := owner_of_accepted(topic)) is not None:
            self.known.forget(owner)


def _is_followed(topic: str) -> bool:
    return (
        owner_of_gateway_replies(topic) is not None
        or owner_of_gateway_partials(topic) is not None
        or owner_of_accepted(topic) is not None
    )
