"""Puts dead letters back where they came from, each once; what decides is in decision.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import START_TIMEOUT_S, make_producer
from guideway.delivery.clients.span_reader import OffsetRange, SpanReader, Spans
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import transaction_guards
from guideway.delivery.offsets.tracker import Commit
from guideway.delivery.publishing.deliverable import refusals
from guideway.delivery.replay.dead_letter_reader import DeadLetterReader
from guideway.delivery.replay.decision import Ledger, RecordPosition, Replayed, Selection, Why, decide
from guideway.delivery.settings import MAX_REQUEST_BYTES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import replay_group, transactional_id
from guideway.schemas.record import Outgoing, Record

MAX_RECORDS: Final = 200
MAX_BYTES: Final = 1_000_000
"""Of one transaction: short, so that readers of the topic do not wait for it."""
MAX_METADATA_CHARS: Final = 3_800
TRANSACTION_TIMEOUT_S: Final = 30.0
FLUSH_TIMEOUT_S: Final = 20.0
ABORT_TIMEOUT_S: Final = 5.0

Walked = Callable[[int], None]
"""Told how many offsets were walked since the last call."""


class Report(msgspec.Struct):
    """What a replay has done, or would do."""

    replayed: list[RecordPosition] = msgspec.field(default_factory=list)
    skipped: dict[Why, list[RecordPosition]] = msgspec.field(default_factory=lambda: defaultdict(list))

    def note(self, record: Record, found: Outgoing | Why | None) -> None:
        """What was decided for a dead letter."""
        match found:
            case Why():
                self.skipped[found].append((record.partition, record.offset))
            case Outgoing():
                self.replayed.append((record.partition, record.offset))

    def note_missing(self, selection: Selection) -> None:
        """Skip the places that were asked for by name and hold nothing that was selected."""
        seen = set(self.replayed).union(*self.skipped.values())
        if missing := sorted(selection.places - seen):
            self.skipped[Why.MISSING] += missing


async def plan(reader: DeadLetterReader, spans: Spans, selection: Selection, walked: Walked) -> Report:
    """What `replay` would do now; nothing is written. Raises Refusal(broker_unreachable)."""
    report = Report()
    for tp, span in spans.items():
        replayed = await reader.replayed(tp) if len(span) else Replayed()
        async for record in _walk(reader.letters, tp, span, walked):
            report.note(record, decide(record, selection, replayed))
    report.note_missing(selection)
    return report


async def replay(
    cluster: Cluster,
    reader: DeadLetterReader,
    spans: Spans,
    selection: Selection,
    *,
    origin: str,
    origin_partitions: int,
    walked: Walked,
) -> Report:
    """Put the selected dead letters of these spans back, each once, however often this is called or interrupted.

    `origin`: the topic that they came from, with how many partitions it has now.
    Raises Refusal, after which it is safe to call it again (with `again`: it begins again).
    """
    report = Report()
    async with _coded(origin, report, selection):
        for tp, span in spans.items():
            if not len(span):
                continue
            async with _owner(cluster, tp) as producer:
                # Only now: initialising the producer has ended every earlier replay of this partition.
                replayed = await reader.replayed(tp)
                putting = _PartitionReplay(producer, tp, replayed, span, report)
                async for record in _walk(reader.letters, tp, span, walked):
                    await putting.take(record, decide(record, selection, replayed), origin_partitions)
                await putting.flush()
    report.note_missing(selection)
    return report


class _PartitionReplay:
    """The replay of one dead-letter partition: gathers what goes back, and publishes it in short transactions."""

    def __init__(
        self, producer: AIOKafkaProducer, tp: TopicPartition, replayed: Replayed, span: OffsetRange, report: Report
    ):
        self._producer = producer
        self._tp = tp
        self._replayed = replayed
        self._ledger = Ledger(replayed, span.first)
        self._report = report
        self._waiting: dict[int, Outgoing] = {}
        self._waiting_bytes = 0

    async def take(self, record: Record, found: Outgoing | Why | None, origin_partitions: int) -> None:
        """Act on what was decided for the next dead letter of the partition."""
        if not isinstance(found, Outgoing):
            self._ledger.receive(record.offset)
            self._report.note(record, found)
            return
        if found.partition is not None and found.partition >= origin_partitions:
            # The topic was made anew and narrower: the key decides, as for a new record.
            found = msgspec.structs.replace(found, partition=None)
        if len(self._waiting) == MAX_RECORDS or self._waiting_bytes + found.size_bytes > MAX_BYTES:
            await self.flush()
        self._ledger.receive(record.offset)
        self._waiting[record.offset] = found
        self._waiting_bytes += found.size_bytes

    async def flush(self) -> None:
        """Publish what waits, and with it the note that it was put back."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        again = [offset for offset in waiting if offset in self._replayed]
        while waiting:
            fresh = [offset for offset in waiting if offset not in self._replayed]
            chosen, commit = self._ledger.commit_of(fresh, MAX_METADATA_CHARS)
            if not chosen and not again:
                self._report.skipped[Why.NO_ROOM] += [(self._tp.partition, offset) for offset in fresh]
                return
            offsets = sorted([*again, *chosen])
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._transact([waiting.pop(offset) for offset in offsets], commit)
            self._ledger.apply(commit)
            self._report.replayed += [(self._tp.partition, offset) for offset in offsets]
            again = []

    async def _transact(self, records: list[Outgoing], commit: Commit) -> None:
        await self._producer.begin_transaction()
        sent: list[asyncio.Future[Any]] = []
        try:
            for out in records:
                headers = list(out.headers)
                sent.append(
                    await self._producer.send(
                        out.topic, value=out.value, key=out.key, partition=out.partition, headers=headers
                    )
                )
            # A refused record does not fail the commit by itself: it would be noted as put back and not be there.
            await asyncio.gather(*sent)
            offsets = {self._tp: OffsetAndMetadata(commit.low, commit.metadata)}
            await self._producer.send_offsets_to_transaction(offsets, replay_group(self._tp.topic))
        except BaseException:
            for one in sent:
                one.cancel()
            # Left open, it would hide what others write to the topic from its readers until it times out.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ABORT_TIMEOUT_S):
                    await self._producer.abort_transaction()
            raise
        await self._producer.commit_transaction()


async def _walk(letters: SpanReader, tp: TopicPartition, span: OffsetRange, walked: Walked) -> AsyncIterator[Record]:
    at = span.first
    async for record in letters.read({tp: span}):
        yield record
        walked(record.offset + 1 - at)
        at = record.offset + 1
    walked(span.end - at)


@asynccontextmanager
async def _owner(cluster: Cluster, tp: TopicPartition) -> AsyncIterator[AIOKafkaProducer]:
    """The producer that alone may replay this partition: it fences every earlier one."""
    producer = make_producer(
        cluster,
        "replay",
        transactional_id=transactional_id(replay_group(tp.topic), *tp),
        transaction_timeout_ms=int(TRANSACTION_TIMEOUT_S * 1000),
        request_timeout_ms=15_000,
        max_request_size=MAX_REQUEST_BYTES,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await producer.start()
        yield producer
    finally:
        await transaction_guards.discard(producer)


@asynccontextmanager
async def _coded(origin: str, report: Report, selection: Selection) -> AsyncIterator[None]:
    """Every failure of the cluster as a Refusal that says what running the command again would do."""
    try:
        yield
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{refusal.message}; {_so_far(report, selection)}") from None
    except (KafkaError, OSError, TimeoutError) as error:
        code = FailureCode.BROKER_UNREACHABLE
        why = (
            f"the replay broke off ({type(error).__name__}): the brokers do not answer, do not give the rights to "
            "replay, or another replay of this topic took over"
        )
        for refused in refusals(error, {origin}).values():
            code, why = refused.code, refused.message
        raise Refusal(code, f"{why}; {_so_far(report, selection)}") from error


def _so_far(report: Report, selection: Selection) -> str:
    count = len(report.replayed)
    last = ":".join(map(str, report.replayed[-1])) if report.replayed else None
    so_far = f"{count} put back so far" + (f", the last at {last}" if last else "")
    if selection.again:
        return f"{so_far}: with --again these are put back once more, so name the rest with --offset"
    return f"{so_far}: nothing is put back twice, it is safe to run this again"
