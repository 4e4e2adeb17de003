"""Dead-letter topics read from their beginning to where they end now, and what was replayed of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started, unreachable
from guideway.delivery.guards import fetch_guards, group_guards
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata
from guideway.delivery.pipeline import as_record
from guideway.delivery.replay.decision import Replayed
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record

ANSWER_TIMEOUT_S: Final = 20.0


class OffsetRange(msgspec.Struct, frozen=True):
    """The offsets of a partition that are read, from `first` to before `end`. Not each of them holds a record."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


Spans = Mapping[TopicPartition, OffsetRange]


class DeadLetterReader:
    """Reads committed dead letters, one partition after the other. Every method raises Refusal(broker_unreachable)."""

    def __init__(self, bootstrap: str, consumer: Any) -> None:
        self._bootstrap = bootstrap
        self._consumer = consumer

    @staticmethod
    @asynccontextmanager
    async def connected(bootstrap: str) -> AsyncIterator[DeadLetterReader]:
        """A reader, connected on entry."""
        # Where retention takes the first records meanwhile, reading goes on with the next, not at the end.
        consumer = make_consumer(
            bootstrap, "dead-letters", group_id=names.DEAD_LETTER_REPLAY_GROUP, auto_offset_reset="earliest"
        )
        async with started(consumer, bootstrap):
            yield DeadLetterReader(bootstrap, consumer)

    async def spans(self, topics: Mapping[str, int]) -> dict[TopicPartition, OffsetRange]:
        """What the partitions of these topics (name → partitions) hold now, as far as transactions have ended."""
        wanted = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await fetch_guards.know_topics(self._consumer, topics)
                first = await self._consumer.beginning_offsets(wanted)
                end = await self._consumer.end_offsets(wanted)
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._bootstrap, error, connected=True) from None
        return {tp: OffsetRange(first[tp], max(first[tp], end[tp])) for tp in wanted}

    async def replayed(self, tp: TopicPartition) -> Replayed:
        """What was replayed of the partition. Who is to rely on it has initialised the partition's producer before."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                committed = await group_guards.committed(self._consumer, tp)
            return Replayed.of_commit(committed.offset, committed.metadata) if committed is not None else Replayed()
        except UnreadableCommitMetadata as error:
            raise Refusal(
                FailureCode.INTERNAL_ERROR,
                f"what was replayed of {tp.topic}, partition {tp.partition}, cannot be read ({error}): "
                "use the version of guideway that has replayed it",
            ) from None
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._bootstrap, error, connected=True) from None

    async def read(self, spans: Spans) -> AsyncIterator[Record]:
        """The dead letters of these spans: partition after partition, in order of offset."""
        for tp, span in spans.items():
            async for record in self._read_one(tp, span):
                yield record

    async def _read_one(self, tp: TopicPartition, span: OffsetRange) -> AsyncIterator[Record]:
        if not len(span):
            return
        self._consumer.assign([tp])
        self._consumer.seek(tp, span.first)
        at = span.first
        # The position moves past markers and aborted records, too.
        while at < span.end:
            batch = await self._next_batch(tp, at)
            for record in batch:
                if record.offset < span.end:
                    yield as_record(record)
            at = await self._consumer.position(tp)

    async def _next_batch(self, tp: TopicPartition, at: int) -> Iterable[Any]:
        """Records from `at` on; empty where the position moved on without any."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while True:
                    batches = await self._consumer.getmany(tp, timeout_ms=500)
                    if batches or await self._consumer.position(tp) != at:
                        return list(batches.get(tp, ()))
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._bootstrap, error, connected=True) from None
