"""One owned input partition: its lock (a transactional producer), its offsets, its running work and its results."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery import aiokafka_guards
from guideway.delivery.clients import make_producer
from guideway.delivery.completed_set import decode
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.settings import MAX_RECORD_BYTES, DeliverySettings
from guideway.delivery.topic_directory import TopicDirectory
from guideway.delivery.tracker import OffsetTracker
from guideway.schemas import names
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Outgoing, Record

log = structlog.get_logger(__name__)

Handle = Callable[[Record], Awaitable[list[Outgoing]]]
"""Works on one record and says what to publish for it; it turns every failure it foresees into a reply."""


class Phase(enum.Enum):
    """CLOSED → OPENING → OPEN → CLOSED; from OPEN back to OPENING after any failed or unknown transaction."""

    CLOSED = enum.auto()
    OPENING = enum.auto()
    OPEN = enum.auto()


class Partition:
    """Work may outlive an ownership: what is running when the partition is taken away is adopted when it comes back.

    The order in `_open` carries the guarantee: initialising the producer fences every earlier owner and ends its open
    transaction, and only then is the committed offset the last word.
    """

    def __init__(
        self,
        tp: TopicPartition,
        *,
        group: str,
        consumer: Any,
        topics: TopicDirectory,
        settings: DeliverySettings,
        handle: Handle,
    ) -> None:
        self.tp = tp
        self.phase = Phase.CLOSED
        self._group = group
        self._consumer = consumer
        self._topics = topics
        self._settings = settings
        self._handle = handle
        self._tracker = OffsetTracker(0)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ready: dict[int, tuple[Record, list[Outgoing]]] = {}
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Records being worked on."""
        return len(self._running)

    @property
    def accepting(self) -> bool:
        """Whether more records may be taken in."""
        return self.phase is Phase.OPEN and len(self._tracker.pending) < self._settings.partition_capacity

    # Ownership -------------------------------------------------------------------------------------------------------

    def own(self) -> None:
        """Begin to own the partition, in the background."""
        self.phase = Phase.OPENING
        self._closing.clear()
        self._life = asyncio.create_task(self._live(), name=f"own {self.tp.topic}/{self.tp.partition}")

    async def disown(self, timeout_s: float) -> None:
        """Publish what is ready and give the partition up; running work goes on for `abandon` or the next `own`."""
        life, self._life = self._life, None
        if life is None:
            return
        self._closing.set()
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(life, timeout_s)
        self.phase = Phase.CLOSED

    def abandon(self) -> None:
        """Stop the running work: the partition is somebody else's now."""
        for task in self._running.values():
            task.cancel()
        self._running.clear()
        self._ready.clear()

    async def finish_running(self, timeout_s: float) -> None:
        """Wait for the running work, for a shutdown."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=timeout_s)

    async def _live(self) -> None:
        failures = 0
        while not self._closing.is_set():
            producer = make_producer(
                self._settings.bootstrap,
                "delivery",
                transactional_id=names.transactional_id(self._group, *self.tp),
                transaction_timeout_ms=int(self._settings.transaction_timeout_s * 1000),
                request_timeout_ms=15_000,
                retry_backoff_ms=20,
                max_request_size=MAX_RECORD_BYTES + 48_576,
            )
            try:
                await self._open(producer)
                failures = 0
                await self._publish_until_closing(producer)
            except Exception as error:
                # Whatever it was, and whether or not the transaction made it: a new producer reads the truth.
                failures += 1
                self.phase = Phase.OPENING
                ours = not isinstance(error, KafkaError | OSError | TimeoutError)
                log.warning(
                    "partition reopens",
                    topic=self.tp.topic,
                    partition=self.tp.partition,
                    error=repr(error),
                    exc_info=ours,
                )
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(producer.stop(), 5)
            if failures:
                # Bounded before it is raised: a broker may be away for days, and no float holds 2**1024.
                wait_s = min(self._settings.max_backoff_s, 0.1 * 2 ** min(failures, 10))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), wait_s)

    async def _open(self, producer: AIOKafkaProducer) -> None:
        timeout_s = self._settings.open_timeout_s
        await asyncio.wait_for(producer.start(), timeout_s)
        committed = await asyncio.wait_for(aiokafka_guards.committed(self._consumer, self.tp), timeout_s)
        if committed is None:
            first = await asyncio.wait_for(self._consumer.beginning_offsets([self.tp]), timeout_s)
            self._tracker = OffsetTracker(first[self.tp])
        else:
            self._tracker = OffsetTracker(committed.offset, decode(committed.offset, committed.metadata))
        for offset in [*self._running, *self._ready]:
            if not self._tracker.adopt(offset):
                self._drop(offset)
        # Raises IllegalStateError if the partition was taken away meanwhile.
        self._consumer.seek(self.tp, self._tracker.low)
        self.phase = Phase.OPEN
        self._wake.set()

    # Work ------------------------------------------------------------------------------------------------------------

    def take(self, record: Record) -> None:
        """Start work on a record, unless it is done or under way."""
        if self.phase is Phase.OPEN and self._tracker.receive(record.offset):
            self._running[record.offset] = asyncio.create_task(self._work(record))

    async def _work(self, record: Record) -> None:
        try:
            outgoing = await self._handle(record)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("handler failed", topic=record.topic, partition=record.partition, offset=record.offset)
            outgoing = [dead_letter(record, FailureCode.INTERNAL_ERROR, f"{type(error).__name__} in the handler")]
        del self._running[record.offset]
        self._ready[record.offset] = (record, outgoing)
        self._wake.set()

    def _drop(self, offset: int) -> None:
        self._ready.pop(offset, None)
        if task := self._running.pop(offset, None):
            task.cancel()

    # Results ---------------------------------------------------------------------------------------------------------

    async def _publish_until_closing(self, producer: AIOKafkaProducer) -> None:
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            finishing = list(islice(self._ready, self._settings.flush_results))
            chosen, commit = self._tracker.largest_commit(finishing, self._settings.max_metadata_chars)
            if chosen:
                async with asyncio.timeout(self._settings.flush_timeout_s):
                    await self._transact(producer, chosen, OffsetAndMetadata(commit.low, commit.metadata))
                self._tracker.apply(commit)
                for offset in chosen:
                    del self._ready[offset]
            elif closing:
                return
            else:
                await self._wake.wait()
                if not self._closing.is_set():
                    await asyncio.sleep(self._settings.flush_interval_s)

    async def _transact(self, producer: AIOKafkaProducer, offsets: list[int], commit: OffsetAndMetadata) -> None:
        results = [await self._deliverable(*self._ready[offset]) for offset in offsets]
        await producer.begin_transaction()
        sent = [
            await producer.send(
                out.topic, value=out.value, key=out.key, partition=out.partition, headers=list(out.headers)
            )
            for outgoing in results
            for out in outgoing
        ]
        # A refused record does not fail the commit by itself: its result would be lost and its offset committed.
        await asyncio.gather(*sent)
        await producer.send_offsets_to_transaction({self.tp: commit}, self._group)
        await producer.commit_transaction()

    async def _deliverable(self, record: Record, outgoing: list[Outgoing]) -> list[Outgoing]:
        """The records to send, with dead letters in place of those that the cluster would refuse."""
        kept: list[Outgoing] = []
        for out in outgoing:
            partitions = await self._topics.partitions(out.topic)
            reason = None
            if partitions == 0:
                reason = (FailureCode.REPLY_ADDRESS_REFUSED, f"topic {out.topic} does not exist: create it")
            elif out.partition is not None and out.partition >= partitions:
                reason = (FailureCode.REPLY_ADDRESS_REFUSED, f"topic {out.topic} has no partition {out.partition}")
            elif out.size_bytes > MAX_RECORD_BYTES:
                reason = (FailureCode.REPLY_TOO_LARGE, f"a record of {out.size_bytes} bytes exceeds {MAX_RECORD_BYTES}")
            if reason is None:
                kept.append(out)
                continue
            letter = dead_letter(record, *reason)
            if not await self._topics.partitions(letter.topic):
                raise LookupError(f"dead-letter topic {letter.topic} does not exist: run `guideway topics apply`")
            kept.append(letter)
        return kept
