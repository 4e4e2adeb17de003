"""Reads ahead in a backlog that is held back, to find the cancellations in it.

A tombstone stands behind the event that it cancels. Where that is held back, the tombstone would be reached only when
the event is done. A caller may cancel what still waits, so the tombstone is looked for ahead of time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record, make_consumer, make_producer, stop_all
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.producers.events.envelope import cancelled_id
from guideway.producers.intake.cancelled_ahead import CancelledAhead
from guideway.schemas.names.topics import sender_of_topic
from guideway.schemas.record import Outgoing, Record

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""The time between two looks at what is held back."""
MOST: Final = 32
"""Partitions of one namespace that are read ahead at a time."""
AT_ONCE: Final = 200
"""Records that are read before other work has its turn for `PAUSE_S`."""
PAUSE_S: Final = 0.02

Cancel = Callable[[Record, str], Awaitable[Outgoing | None]]
"""(tombstone, id that it cancels) → the cancellation to publish, or None where there is none."""


class LookAhead:
    """`async with LookAhead(...):` reads what stands behind a backlog once, as long as anything is held back."""

    def __init__(self, cluster: Cluster, pipeline: Pipeline, found: CancelledAhead, cancel: Cancel) -> None:
        self._cluster = cluster
        self._pipeline = pipeline
        self._found = found
        self._cancel = cancel
        self._consumer: Any = None
        self._producer: Any = None
        self._following: set[TopicPartition] = set()

    async def __aenter__(self) -> LookAhead:
        self._task = asyncio.create_task(self._run(), name="look ahead for cancellations")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._close()

    def reached(self, record: Record, id_: str) -> None:
        """The pipeline has come to this tombstone: what it cancels may be held back in another partition."""
        if any(tp.topic == record.topic for tp in self._following):
            self._found.note(sender_of_topic(record.topic), record.topic, id_, record.timestamp_ms)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
                until = asyncio.get_running_loop().time() + LOOK_S
                while self._following and asyncio.get_running_loop().time() < until:
                    await self._read()
                    await asyncio.sleep(PAUSE_S)
            except Exception as error:
                # Whatever it is, it must not end this task unseen; what is followed is begun again.
                log.warning("what is held back cannot be looked through", error=repr(error))
                await self._close()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Follow what is held back, and no longer what the pipeline has reached."""
        held = self._pipeline.held_back()
        if not held and not self._following:
            return
        if self._consumer is None:
            await self._open()
        for tp in list(self._following):
            at = await self._pipeline.position(tp)
            if at is None or at >= await self._consumer.position(tp):
                self._following.remove(tp)
        of = Counter(sender_of_topic(tp.topic) for tp in self._following)
        begun = {}
        for tp in held - self._following:
            namespace = sender_of_topic(tp.topic)
            if of[namespace] < MOST and (at := await self._pipeline.position(tp)) is not None:
                of[namespace] += 1
                begun[tp] = at
        await self._follow(begun)

    async def _follow(self, begun: dict[TopicPartition, int]) -> None:
        """These as well from now on, from an offset each."""
        before = self._consumer.assignment()
        positions = {tp: await self._consumer.position(tp) for tp in self._following} | begun
        self._following |= begun.keys()
        for tp in before - self._following:
            if not any(other.topic == tp.topic for other in self._following):
                self._found.forget(sender_of_topic(tp.topic), tp.topic)
        if not self._following:
            await self._close()
        elif self._following != before:
            self._consumer.assign(self._following)
            for tp, at in positions.items():
                self._consumer.seek(tp, at)

    async def _read(self) -> None:
        for batch in (await self._consumer.getmany(timeout_ms=200, max_records=AT_ONCE)).values():
            for record in map(as_record, batch):
                if (id_ := cancelled_id(record)) is not None:
                    self._found.note(sender_of_topic(record.topic), record.topic, id_, record.timestamp_ms)
                    if (told := await self._cancel(record, id_)) is not None:
                        # For what workers have of it already; it is told again when the tombstone is reached.
                        await self._producer.send_and_wait(told.topic, told.value, partition=told.partition)

    async def _open(self) -> None:
        consumer = make_consumer(
            self._cluster,
            "ahead",
            auto_offset_reset="earliest",
            fetch_max_bytes=4 * 2**20,
            max_partition_fetch_bytes=2**18,
        )
        producer = make_producer(self._cluster, "ahead")
        self._consumer, self._producer = consumer, producer
        await asyncio.gather(consumer.start(), producer.start())

    async def _close(self) -> None:
        clients, self._consumer, self._producer = [self._consumer, self._producer], None, None
        self._following.clear()
        await stop_all(*clients)
