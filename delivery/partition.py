"""One owned input partition: its lock (a transactional producer), its offsets, its running work and its results."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.completed_set import decode
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.recovery import Rejoin, Reopen, after_failure
from guideway.delivery.sendable import DeadLetterHeld, Result, refusals, sendable, topics_of
from guideway.delivery.settings import DeliverySettings
from guideway.delivery.tracker import OffsetTracker
from guideway.schemas import names
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Outgoing, Record

log = structlog.get_logger(__name__)

Handle = Callable[[Record], Awaitable[list[Outgoing]]]
"""Works on one record and says what to publish for it; it turns every failure it foresees into a reply."""


class Kafka(Protocol):
    """What a partition needs of the client library. Every method may raise KafkaError and may hang."""

    def producer(self, transactional_id: str) -> Any:
        """A producer with aiokafka's methods for transactions, not started; starting it fences all earlier ones."""

    async def discard(self, producer: Any) -> None:
        """Let go of a producer, whatever state it is in; never raises."""

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        """What the group committed last, with its metadata; None: nothing ever."""

    async def first_offset(self, tp: TopicPartition) -> int:
        """Of what the partition still holds."""

    async def end_offset(self, tp: TopicPartition) -> int:
        """One past the last record."""

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read on from here. Raises IllegalStateError if the partition is not ours any more."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0: there is none of that name."""


class Phase(enum.Enum):
    """CLOSED → OPENING → OPEN → CLOSED; OPEN → OPENING after a failure, OPEN → FENCED where another took the lock."""

    CLOSED = enum.auto()
    OPENING = enum.auto()
    OPEN = enum.auto()
    FENCED = enum.auto()


class Partition:
    """Work may outlive an ownership: what is running when the partition is taken away is adopted when it comes back.

    The order in `_open` carries the guarantee: initialising the producer fences every earlier owner and ends its open
    transaction, and only then is the committed offset the last word.
    """

    def __init__(
        self, tp: TopicPartition, *, group: str, kafka: Kafka, settings: DeliverySettings, handle: Handle
    ) -> None:
        self.tp = tp
        self.phase = Phase.CLOSED
        self._group = group
        self._kafka = kafka
        self._settings = settings
        self._handle = handle
        self._tracker = OffsetTracker(0)
        self._committed_low = self._metadata_chars = 0
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ready: dict[int, Result] = {}
        self._out_of_range = False
        self._owes_since: float | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._log = log.bind(topic=tp.topic, partition=tp.partition)

    @property
    def running(self) -> int:
        """Records being worked on."""
        return len(self._running)

    @property
    def accepting(self) -> bool:
        """Whether more records may be taken in: bounds memory, and the metadata that tells what is finished."""
        return (
            self.phase is Phase.OPEN
            and len(self._tracker.pending) < self._settings.partition_capacity
            and self._metadata_chars <= self._settings.pause_metadata_chars
        )

    @property
    def owes_since(self) -> float | None:
        """Since when (`time.monotonic`) the partition has been waiting to open or to publish; None: it owes nothing."""
        return self._owes_since

    # Ownership -------------------------------------------------------------------------------------------------------

    def own(self) -> None:
        """Begin to own the partition, in the background."""
        self.phase = Phase.OPENING
        self._owes_since = time.monotonic()
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
        self._owes_since = None

    def abandon(self) -> None:
        """Stop the running work: the partition is somebody else's now."""
        for offset in [*self._running, *self._ready]:
            self._drop(offset)

    async def finish_running(self, timeout_s: float) -> None:
        """Wait for the running work, for a shutdown."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=timeout_s)

    async def released(self) -> None:
        """Wait until the connections of earlier ownerships are closed."""
        if self._discarding:
            await asyncio.wait(self._discarding)

    def out_of_range(self) -> None:
        """The broker has no record at our position: open anew, and find out why."""
        self._out_of_range = True
        if self._life is not None and self.phase is Phase.OPEN:
            self._life.cancel("out of range")
            self.own()

    async def _live(self) -> None:
        failures = 0
        while not self._closing.is_set():
            producer = self._kafka.producer(names.transactional_id(self._group, *self.tp))
            try:
                await self._open(producer)
                failures = 0
                await self._publish_until_closing(producer)
                return
            except Exception as error:
                # Whatever it was, and whether or not the transaction made it: a new producer reads the truth.
                failures += 1
                match after_failure(error, failures, self._settings.max_backoff_s):
                    case Rejoin():
                        self.phase = Phase.FENCED
                        self._owes_since = self._owes_since or time.monotonic()
                        self._log.warning("another process took the partition's lock; the group is asked whose it is")
                        return
                    case Reopen(wait_s, expected, helps):
                        self.phase = Phase.OPENING
                        self._owes_since = (self._owes_since or time.monotonic()) if helps else None
                        self._log.warning("partition reopens", error=repr(error), exc_info=not expected)
            finally:
                self._discard(producer)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), wait_s)

    def _discard(self, producer: Any) -> None:
        # In the background: nobody has to wait, for the next producer fences this one.
        task = asyncio.create_task(self._kafka.discard(producer))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _open(self, producer: Any) -> None:
        timeout_s = self._settings.open_timeout_s
        await asyncio.wait_for(producer.start(), timeout_s)
        committed = await asyncio.wait_for(self._kafka.committed(self.tp), timeout_s)
        if committed is None:
            self._tracker = OffsetTracker(await asyncio.wait_for(self._kafka.first_offset(self.tp), timeout_s))
        else:
            self._tracker = OffsetTracker(committed.offset, decode(committed.offset, committed.metadata))
        if self._out_of_range:
            async with asyncio.timeout(timeout_s):
                await self._find_range()
        for offset in [*self._running, *self._ready]:
            if not self._tracker.adopt(offset):
                self._drop(offset)
        self._kafka.seek(self.tp, self._tracker.low)
        self.phase = Phase.OPEN
        self._committed_low = committed.offset if committed else 0
        self._metadata_chars = len(committed.metadata) if committed else 0
        self._owes_since = time.monotonic() if self._ready else None
        self._wake.set()

    async def _find_range(self) -> None:
        """Go on where the partition has records, and say loudly what is not there any more."""
        first, end = await self._kafka.first_offset(self.tp), await self._kafka.end_offset(self.tp)
        low = self._tracker.low
        if low < first:
            self._log.error(
                "records were deleted before they were answered; lengthen the topic's retention",
                deleted_up_to=first,
                unanswered_from=low,
            )
            self._tracker = OffsetTracker(first)
        elif low > end:
            self._log.error(
                "the partition ends before our position: the topic was made anew; it is read from its beginning",
                position=low,
                end=end,
            )
            # These offsets mean other records now.
            self.abandon()
            self._tracker = OffsetTracker(first)
        self._out_of_range = False

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
            self._log.exception("handler failed", offset=record.offset)
            outgoing = [dead_letter(record, FailureCode.INTERNAL_ERROR, f"{type(error).__name__} in the handler")]
        del self._running[record.offset]
        self._ready[record.offset] = Result(record, outgoing)
        self._owes_since = self._owes_since or time.monotonic()
        self._wake.set()

    def _drop(self, offset: int) -> None:
        self._ready.pop(offset, None)
        if task := self._running.pop(offset, None):
            task.cancel()

    # Results ---------------------------------------------------------------------------------------------------------

    async def _publish_until_closing(self, producer: Any) -> None:
        # What others had finished before us lies below our position once it has been read again. If no result comes
        # that carries this along, a commit of its own says so, or it would be shown as lag for ever.
        tidy = False
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            batch = await self._next_batch()
            chosen, commit = self._tracker.largest_commit(batch, self._settings.max_metadata_chars)
            if chosen or (tidy and commit.low > self._committed_low):
                async with asyncio.timeout(self._settings.flush_timeout_s):
                    offsets = OffsetAndMetadata(commit.low, commit.metadata)
                    await self._transact(producer, {offset: batch[offset] for offset in chosen}, offsets)
                self._tracker.apply(commit)
                self._committed_low, self._metadata_chars = commit.low, len(offsets.metadata)
                for offset in chosen:
                    del self._ready[offset]
                self._owes_since = time.monotonic() if self._ready else None
            elif closing:
                return
            else:
                tidy = not await self._results_come()

    async def _results_come(self) -> bool:
        """Wait for results to publish; False if none came for a while."""
        try:
            await asyncio.wait_for(self._wake.wait(), self._settings.idle_s)
        except TimeoutError:
            return False
        if not self._closing.is_set():
            await asyncio.sleep(self._settings.flush_interval_s)
        return True

    async def _next_batch(self) -> dict[int, list[Outgoing]]:
        """What to send for the next results, by offset; those that nobody can take yet are held back."""
        batch: dict[int, list[Outgoing]] = {}
        now = time.monotonic()
        # Work may end while topics are looked up.
        for offset, result in list(self._ready.items()):
            if len(batch) == self._settings.flush_results:
                break
            if result.held_until > now:
                continue
            partitions = {topic: await self._kafka.partitions(topic) for topic in topics_of(result)}
            try:
                batch[offset] = sendable(result, partitions)
            except DeadLetterHeld as held:
                result.held_until = now + self._settings.hold_s
                self._log.error("a dead letter is held back", offset=offset, why=str(held))
        return batch

    async def _transact(self, producer: Any, batch: dict[int, list[Outgoing]], commit: OffsetAndMetadata) -> None:
        await producer.begin_transaction()
        sent = {
            offset: [
                await producer.send(
                    out.topic, value=out.value, key=out.key, partition=out.partition, headers=list(out.headers)
                )
                for out in outgoing
            ]
            for offset, outgoing in batch.items()
        }
        # A refused record does not fail the commit by itself: its result would be lost and its offset committed.
        await self._all_taken(batch, sent)
        await producer.send_offsets_to_transaction({self.tp: commit}, self._group)
        await producer.commit_transaction()

    async def _all_taken(self, batch: dict[int, list[Outgoing]], sent: dict[int, list[asyncio.Future[Any]]]) -> None:
        """Raises the first error; what brokers will never take is remembered, and sent otherwise the next time."""
        first: BaseException | None = None
        for offset, futures in sent.items():
            for out, outcome in zip(batch[offset], await asyncio.gather(*futures, return_exceptions=True), strict=True):
                if isinstance(outcome, BaseException):
                    first = first or outcome
                    for topic, refusal in refusals(outcome, {out.topic}).items():
                        self._ready[offset].refused.setdefault(topic, []).append(refusal)
        if first is not None:
            raise first
