"""Pieces of texts to their topics, as they come: at once, in no transaction, and never in the way of a reply."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka import errors
from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import transaction_guards
from guideway.schemas.names import header
from guideway.schemas.names.topics import partial_topic_beside
from guideway.schemas.partial import Partial, Streamed
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.request import Request
from guideway.schemas.wire import PARTIAL

log = structlog.get_logger(__name__)

MOST_TOPIC_BYTES: Final = 2**20
"""Pieces of one topic that wait to be sent; beyond it they are dropped."""
MOST_BYTES: Final = 16 * 2**20
"""Of all topics."""
_SEND_S: Final = 5
"""So long a broker may take; then what is on its way is given up."""
_CLOSE_S: Final = 2
"""At the end, for what still waits."""
_PAUSE_S: Final = 5
"""After a failure, until the next producer is started."""
_REST_S: Final = 60
"""A topic that does not take what is sent is left alone for so long: each refusal costs all topics their producer."""
_REFUSED: Final = (
    errors.TopicAuthorizationFailedError,
    errors.InvalidTopicError,
    errors.PolicyViolationError,
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
)
_SAY_S: Final = 60
"""Between two words in the log on what was dropped."""


class Telling:
    """The pieces of one request, numbered. Where they go, its reply goes: to the topic beside it."""

    def __init__(self, request: Request, record: Record, publisher: PartialPublisher) -> None:
        self._request = request
        self._publisher = publisher
        address = request.reply_to[0]
        self._topic, self._partition = partial_topic_beside(address.topic), address.partition
        self._key = record.key
        self._headers = [
            *record.headers_named(header.ECHOED_HEADERS),
            (header.CONTENT_TYPE, b"application/json"),
            (header.REQUEST_ID, request.id.encode()),
        ]
        self._attempt = 0
        self._counts: list[int] = []

    def begin(self) -> None:
        """The request goes to an engine, perhaps once more: a new attempt, with pieces from 0 on."""
        self._attempt = self._publisher.new_attempt()
        self._counts = [0] * self._request.generation.samples

    def piece(self, sample: int, text: str | None) -> None:
        """Tell the next piece of a sample. None: it is only counted, so that readers miss it and ask the reply."""
        number = self._counts[sample]
        self._counts[sample] += 1
        if text is None:
            return
        told = Partial(
            id=self._request.id,
            namespace=self._request.namespace,
            endpoint=self._request.endpoint,
            sample=sample,
            attempt=self._attempt,
            number=number,
            text=text,
        )
        self._publisher.publish(
            Outgoing(
                topic=self._topic,
                partition=self._partition,
                key=self._key,
                value=PARTIAL.encode(told),
                headers=self._headers,
            ),
            spread=zlib.crc32(self._request.id.encode()),
        )

    @property
    def streamed(self) -> Streamed:
        """What the reply says of them."""
        return Streamed(attempt=self._attempt, pieces=list(self._counts))


class PartialPublisher:
    """Owner of a producer, which is started when it is first needed, and of the pieces that wait for it.

    `publish` never waits. What cannot be sent is dropped and counted: all of it is in the replies as well.
    """

    def __init__(self, cluster: Cluster, partitions: Callable[[str], Awaitable[int]]) -> None:
        """partitions: how many a topic has; 0: there is none."""
        self._cluster = cluster
        self._partitions = partitions
        self._waiting: dict[str, deque[tuple[Outgoing, int]]] = {}
        self._bytes: dict[str, int] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._resting: dict[str, float] = {}
        """Topics that have refused a piece → until when they are left alone."""
        self._producer: Any = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._start_at = 0.0
        self._closed = False
        self._attempt = 0
        self.dropped = 0
        """Pieces since the start."""
        self._said_at = float("-inf")

    async def __aenter__(self) -> PartialPublisher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._senders:
            await asyncio.wait(self._senders.values(), timeout=_CLOSE_S)
        senders = [*self._senders.values()]
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        producer, self._producer = self._producer, None
        if producer is not None:
            await transaction_guards.discard(producer)
        await asyncio.gather(*self._discarding, return_exceptions=True)

    def new_attempt(self) -> int:
        """Microseconds since 1970, but never the same twice, and never less than before."""
        self._attempt = max(self._attempt + 1, time.time_ns() // 1000)
        return self._attempt

    def publish(self, out: Outgoing, *, spread: int) -> None:
        """Send this soon. spread: a number of the request, by which it gets its partition if nothing else says one."""
        held, topic = out.held_bytes, out.topic
        if self._resting and self._resting.get(topic, 0.0) > asyncio.get_running_loop().time():
            self._drop(topic, 1, "the topic has refused one just now")
            return
        of_topic = self._bytes.get(topic, 0)
        if self._closed or of_topic + held > MOST_TOPIC_BYTES or sum(self._bytes.values()) + held > MOST_BYTES:
            self._drop(topic, 1, "they come faster than they can be sent")
            return
        self._waiting.setdefault(topic, deque()).append((out, spread))
        self._bytes[topic] = of_topic + held
        if topic not in self._senders:
            self._senders[topic] = asyncio.create_task(self._send_all(topic), name=f"pieces to {topic}")

    async def _send_all(self, topic: str) -> None:
        """Each topic has a task of its own: one that cannot be written holds up no other."""
        waiting = self._waiting[topic]
        try:
            while waiting:
                out, spread = waiting.popleft()
                self._bytes[topic] -= out.held_bytes
                await self._send(out, spread)
        except asyncio.CancelledError:
            self._drop(topic, len(waiting) + 1, "the worker ends")
            raise
        except (KafkaError, TimeoutError, OSError) as error:
            self._drop(topic, len(waiting) + 1, repr(error))
        except Exception as error:
            log.exception("pieces of texts cannot be sent", topic=topic)
            self._drop(topic, len(waiting) + 1, type(error).__name__)
        finally:
            del self._waiting[topic], self._bytes[topic], self._senders[topic]

    async def _send(self, out: Outgoing, spread: int) -> None:
        partitions = await self._partitions(out.topic)
        if not partitions or (out.partition or 0) >= partitions:
            self._drop(out.topic, 1, "there is no such topic or partition")
            return
        partition = spread % partitions if out.partition is None and out.key is None else out.partition
        producer = await self._started()
        sent = await producer.send(
            out.topic, key=out.key, value=out.value, headers=list(out.headers), partition=partition
        )
        sent.add_done_callback(lambda done: self._look(out.topic, producer, done))

    async def _started(self) -> Any:
        async with self._starting:
            if self._producer is None:
                now = asyncio.get_running_loop().time()
                if now < self._start_at:
                    raise TimeoutError("the producer failed just now")
                self._start_at = now + _PAUSE_S
                producer = make_producer(self._cluster, "partials", request_timeout_ms=_SEND_S * 1000)
                try:
                    async with asyncio.timeout(_SEND_S):
                        await producer.start()
                except BaseException:
                    await transaction_guards.discard(producer)
                    raise
                self._producer = producer
            return self._producer

    def _look(self, topic: str, producer: Any, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and sent.exception() is None:
            return
        self._drop(topic, 1, "cancelled" if sent.cancelled() else repr(sent.exception()))
        if not sent.cancelled() and isinstance(sent.exception(), _REFUSED):
            now = asyncio.get_running_loop().time()
            self._resting = {one: until for one, until in self._resting.items() if until > now} | {topic: now + _REST_S}
        # Its sequence has a gap now, and what it sent next might be refused.
        if producer is self._producer and not self._closed:
            self._producer = None
            discarding = asyncio.create_task(transaction_guards.discard(producer))
            self._discarding.add(discarding)
            discarding.add_done_callback(self._discarding.discard)

    def _drop(self, topic: str, count: int, reason: str) -> None:
        self.dropped += count
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= _SAY_S:
            self._said_at = now
            log.warning("pieces of texts are dropped", topic=topic, since_start=self.dropped, reason=reason)
