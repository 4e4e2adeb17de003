"""Routing questions: asked of workers on their request topics, and answered on one topic that every service reads.

A question and its answer are no part of the event's transaction. The event stays unfinished in its own topic until it
is routed, so whatever gets lost meanwhile is asked again, and what is answered twice counts once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, make_producer, stop_all
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.service_topics import ROUTED_TOPIC
from guideway.schemas.services.routing import RoutingAnswer, RoutingQuestion
from guideway.schemas.wire import ROUTING_ANSWER, ROUTING_QUESTION, Undecodable

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 60.0
"""A question that is not answered in so long is asked again; workers pass over the one before."""
_PAUSE_S: Final = 1.0
"""After an error of the brokers."""

Ask = Callable[[str, int], RoutingQuestion]
"""(id, deadline in Unix milliseconds) → the question."""
Sent = Callable[[TopicPartition, int, int], None]
"""(partition, offset, bytes) of a question that was published."""


class _Ended(Exception):
    """Answers are not read any more."""


class Questions:
    """`async with Questions(cluster) as questions:` – Kafka is asked for nothing before the first question.

    Owner of the questions that wait, of the producer and of the consumer.
    """

    def __init__(self, cluster: Cluster, *, patience_s: float = PATIENCE_S) -> None:
        self._cluster = cluster
        self._patience_s = patience_s
        self._waiting: dict[str, asyncio.Future[RoutingAnswer]] = {}
        self._opening = asyncio.Lock()
        self._producer: Any = None
        self._consumer: Any = None
        self._reading: asyncio.Task[None] | None = None
        self.strangers = 0
        """Records among the answers that are none of this version."""

    async def __aenter__(self) -> Questions:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def ask(self, make: Ask, topic: str, sent: Sent, deadline_ms: int | None) -> RoutingAnswer:
        """The answer to a question that is published to `topic`. It is asked until it is answered.

        deadline_ms: of the event; None: it waits for as long as it takes, as a request waits for a worker.
        Raises Refusal(deadline_exceeded).
        """
        while True:
            now_ms = time.time_ns() // 1_000_000
            until_ms = now_ms + int(self._patience_s * 1000)
            if deadline_ms is not None:
                until_ms = min(until_ms, deadline_ms)
            if until_ms <= now_ms:
                raise Refusal(
                    FailureCode.DEADLINE_EXCEEDED,
                    "the deadline passed before a worker could say where the event belongs: set a later one, or call "
                    "the endpoint itself (on Kafka: name it in the header `endpoint`)",
                )
            try:
                async with asyncio.timeout((until_ms - now_ms) / 1000):
                    return await self._ask_once(make(uuid.uuid4().hex, until_ms), topic, sent)
            except TimeoutError:
                # Perhaps nobody works; perhaps the topic of answers was made anew.
                await self._close()
            except (KafkaError, OSError, _Ended) as error:
                log.warning("a routing question cannot be asked; it is asked again", error=repr(error))
                await self._close()
                await asyncio.sleep(_PAUSE_S)

    async def _ask_once(self, question: RoutingQuestion, topic: str, sent: Sent) -> RoutingAnswer:
        await self._open()
        future: asyncio.Future[RoutingAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[question.id] = future
        try:
            value = ROUTING_QUESTION.encode(question)
            headers = [(header.CONTENT_TYPE, b"application/json")]
            at = await self._producer.send_and_wait(topic, value, headers=headers)
            sent(TopicPartition(at.topic, at.partition), at.offset, len(value))
            return await future
        finally:
            del self._waiting[question.id]

    # The clients -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        async with self._opening:
            if self._reading is not None and not self._reading.done():
                return
            await self._stop_clients()
            self._producer = make_producer(self._cluster, "router")
            self._consumer = make_consumer(self._cluster, "router", auto_offset_reset="latest")
            await asyncio.gather(self._producer.start(), self._consumer.start())
            tp = TopicPartition(ROUTED_TOPIC, 0)
            self._consumer.assign([tp])
            await self._consumer.seek_to_end(tp)
            # Read the position before anything is asked: a later position could be behind the answer.
            await self._consumer.position(tp)
            self._reading = asyncio.create_task(self._read(self._consumer), name="routing answers")

    async def _read(self, consumer: Any) -> None:
        try:
            async for record in consumer:
                self._take(record.value)
        except KafkaError as error:
            log.warning("routing answers cannot be read; they are read anew", error=repr(error))
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_Ended())

    def _take(self, value: bytes | None) -> None:
        try:
            answer = ROUTING_ANSWER.decode(value)
        except Undecodable:
            self.strangers += 1
            log.warning("no routing answer of this version", so_far=self.strangers)
            return
        future = self._waiting.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)

    async def _close(self) -> None:
        async with self._opening:
            await self._stop_clients()

    async def _stop_clients(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        clients, self._producer, self._consumer = [self._producer, self._consumer], None, None
        await stop_all(*clients)
