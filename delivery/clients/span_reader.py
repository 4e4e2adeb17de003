"""Committed records of topics, from one offset to another, for whoever needs an end to what is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record, make_consumer, started, unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import fetch_guards
from guideway.schemas.record import Record

ANSWER_TIMEOUT_S: Final = 20.0


class OffsetRange(msgspec.Struct, frozen=True):
    """The offsets of a partition that are read, from `first` to before `end`. Not each of them holds a record."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


Spans = Mapping[TopicPartition, OffsetRange]


class SpanReader:
    """Reads one partition after the other. Every method raises Refusal(broker_unreachable)."""

    def __init__(self, cluster: Cluster, consumer: Any) -> None:
        """consumer: that of the reader alone, which assigns it partitions and moves it."""
        self._cluster = cluster
        self._consumer = consumer

    @staticmethod
    @asynccontextmanager
    async def connected(cluster: Cluster, role: str) -> AsyncIterator[SpanReader]:
        """A reader, connected on entry. role: in the client id."""
        # Where retention takes the first records meanwhile, reading goes on with the next, not at the end.
        consumer = make_consumer(cluster, role, auto_offset_reset="earliest")
        async with started(consumer, cluster):
            yield SpanReader(cluster, consumer)

    async def spans(self, topics: Mapping[str, int], *, since_ms: int = 0) -> dict[TopicPartition, OffsetRange]:
        """What the partitions of these topics (name → partitions) hold now, as far as transactions have ended.

        since_ms: leave out what stands before the first record of this time (Unix milliseconds).
        """
        wanted = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await fetch_guards.know_topics(self._consumer, topics)
                first = await self._consumer.beginning_offsets(wanted)
                end = await self._consumer.end_offsets(wanted)
                begins = await self._consumer.offsets_for_times(dict.fromkeys(wanted, since_ms)) if since_ms else {}
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._cluster, error, connected=True) from None
        for tp, found in begins.items():
            first[tp] = max(first[tp], end[tp] if found is None else found.offset)
        return {tp: OffsetRange(first[tp], max(first[tp], end[tp])) for tp in wanted}

    async def read(self, spans: Spans) -> AsyncGenerator[Record]:
        """The records of these spans: partition after partition, in order of offset."""
        for tp, span in spans.items():
            async for record in self._read_one(tp, span):
                yield record

    async def read_together(self, spans: Spans) -> AsyncGenerator[Record]:
        """The records of these spans, those of each partition in order of offset, and of all as they come.

        To read hundreds of short ones takes no longer than one of them.
        """
        left = {tp: span for tp, span in spans.items() if len(span)}
        self._consumer.assign([*left])
        for tp, span in left.items():
            self._consumer.seek(tp, span.first)
        at = {tp: span.first for tp, span in left.items()}
        while left:
            for tp, batch in (await self._next_batches(at)).items():
                for record in batch:
                    if record.offset < left[tp].end:
                        yield as_record(record)
            at = {tp: position for tp in left if (position := await self._consumer.position(tp)) < left[tp].end}
            left = {tp: left[tp] for tp in at}

    async def _read_one(self, tp: TopicPartition, span: OffsetRange) -> AsyncIterator[Record]:
        if not len(span):
            return
        self._consumer.assign([tp])
        self._consumer.seek(tp, span.first)
        at = span.first
        # The position moves past markers and aborted records, too.
        while at < span.end:
            for record in (await self._next_batches({tp: at})).get(tp, ()):
                if record.offset < span.end:
                    yield as_record(record)
            at = await self._consumer.position(tp)

    async def _next_batches(self, at: Mapping[TopicPartition, int]) -> dict[TopicPartition, list[Any]]:
        """Records from these positions on; none where one moved on without any."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while True:
                    batches: dict[TopicPartition, list[Any]] = await self._consumer.getmany(*at, timeout_ms=500)
                    if batches or any([await self._consumer.position(tp) != place for tp, place in at.items()]):
                        return batches
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._cluster, error, connected=True) from None
