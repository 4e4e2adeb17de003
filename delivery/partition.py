"""One owned input partition: its lock (a transactional producer), its offsets, its running work and its results."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.budget import Budget
from guideway.delivery.in_flight import Handle, InFlight, Refuse, refuse_by_dead_letter
from guideway.delivery.offsets.commit_metadata import decode
from guideway.delivery.offsets.crash_history import FATAL, CrashHistory
from guideway.delivery.offsets.tracker import Commit, OffsetTracker
from guideway.delivery.partition_kafka import PartitionKafka
from guideway.delivery.publishing.deliverable import DeadLetterHeld, deliverable, first_results, refusals, topics_of
from guideway.delivery.publishing.slow_topics import SlowTopics
from guideway.delivery.recovery import Rejoin, Reopen, after_failure
from guideway.delivery.settings import DeliverySettings
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record

log = structlog.get_logger(__name__)

OnPublished = Callable[[str, Sequence[tuple[Outgoing, Any]]], None]
"""The input's topic, and what was published of it beside where it stands (aiokafka's RecordMetadata)."""

_DEADLY: Final = Refusal(
    FailureCode.ENGINE_FAILED,
    f"{FATAL} workers in a row died with this record and nothing to show: change its text, schema or guidance",
)


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
        self,
        tp: TopicPartition,
        *,
        group: str,
        kafka: PartitionKafka,
        settings: DeliverySettings,
        handle: Handle,
        refuse: Refuse = refuse_by_dead_letter,
        token: int = 0,
        budget: Budget | None = None,
        on_room: Callable[[], None] = lambda: None,
        on_published: OnPublished = lambda topic, placed: None,
    ) -> None:
        """`token`: of the pipeline, under which it is a member of its group.

        `on_room` is told whenever more records may be taken in.

        `on_published` is told after each transaction what it published, and where that stands.
        """
        self.tp = tp
        self.phase = Phase.CLOSED
        self._group = group
        self._token = token
        self._kafka = kafka
        self._settings = settings
        self._tracker = OffsetTracker(0)
        self._metadata_chars = 0
        self._on_room = on_room
        self._on_published = on_published
        self._is_new, self._has_noted, self._leaving = True, False, False
        self._begun = asyncio.Event()
        self._work = InFlight(handle, refuse, may_begin=self._may_begin, on_result=self._result_came)
        self._budget = budget or Budget(settings.held_bytes, lambda: self._work.held_bytes)
        self._out_of_range = False
        self._owes_since: float | None = None
        self.moved_at = float("-inf")
        """When (`time.monotonic`) it last opened or published."""
        self._slow = SlowTopics(settings.hold_s)
        self._wake = asyncio.Event()
        self._publish_by: float | None = None
        self._closing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._log = log.bind(topic=tp.topic, partition=tp.partition)

    @property
    def running(self) -> int:
        """Records taken in and not finished."""
        return self._work.unfinished

    @property
    def in_hand(self) -> int:
        """Records taken in whose results are not published."""
        return self._work.unfinished + len(self._work.ready)

    @property
    def held_bytes(self) -> int:
        """Of the records taken in and of what came of them, until it is published."""
        return self._work.held_bytes

    @property
    def accepting(self) -> bool:
        """Whether more records may be taken in: bounds memory, and the metadata that tells what is finished."""
        return (
            self.phase is Phase.OPEN
            and len(self._tracker.pending) < self._settings.partition_capacity
            and self._metadata_chars <= self._settings.pause_metadata_chars
            and self._budget.admits(self._work.held_bytes)
        )

    @property
    def owes_since(self) -> float | None:
        """Since when (`time.monotonic`) the partition has been waiting to open or to publish; None: it owes nothing."""
        return self._owes_since

    # Ownership -------------------------------------------------------------------------------------------------------

    def own(self) -> None:
        """Begin to own the partition, in the background."""
        self._is_new, self._has_noted = True, False
        self._begun.clear()
        self._closing.clear()
        self._start_life()

    def _start_life(self) -> None:
        self.phase = Phase.OPENING
        self._owes_since = time.monotonic()
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
        self._work.drop(lambda offset: True)

    def leave(self) -> None:
        """The process is told to end: whatever becomes of the running work, its end is no death."""
        self._leaving = True
        self._wake.set()

    async def finish_running(self, timeout_s: float) -> None:
        """Wait for the running work, for a shutdown."""
        await self._work.finish(timeout_s)

    async def released(self) -> None:
        """Wait until the connections of earlier ownerships are closed."""
        if self._discarding:
            await asyncio.wait(self._discarding)

    def out_of_range(self) -> None:
        """The broker has no record at our position: open anew, and find out why."""
        self._out_of_range = True
        if self._life is not None and self.phase is Phase.OPEN:
            self._life.cancel("out of range")
            # Not `own`: nobody else had it meanwhile, so what is noted as under way is ours, and no death.
            self._start_life()

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
            low = committed.offset
            done, crashes = decode(low, committed.metadata)
            if self._is_new and (crashes.begun or crashes.dead):
                crashes = await self._taken_over(crashes, low, len(done))
            self._tracker = OffsetTracker(low, done, crashes)
        if self._out_of_range:
            async with asyncio.timeout(timeout_s):
                await self._find_range()
        self._is_new = False
        self._work.drop(lambda offset: not self._tracker.adopt(offset))
        self._kafka.seek(self.tp, self._tracker.low)
        self.phase = Phase.OPEN
        self._metadata_chars = len(committed.metadata) if committed else 0
        self.moved_at = time.monotonic()
        self._owes_since = self._owes()
        self._wake.set()
        self._on_room()

    async def _taken_over(self, before: CrashHistory, low: int, finished_above: int) -> CrashHistory:
        """What is to be thought of the owners before, by who of them still is a member of the group."""
        alive = {self._token}
        try:
            alive |= await asyncio.wait_for(self._kafka.alive(), self._settings.open_timeout_s)
        except KafkaError as error:
            if error.retriable:
                raise
            self._log.warning("who lives is not told, so every owner that left its work counts", error=repr(error))
        crashes = before.taken_over(low, finished_above, self._settings.capacity, alive)
        if before.begun:
            died = crashes.deaths > 0 and before.owner not in alive
            self._log.warning(
                "the owner before died in mid-work; what it had begun and not published is worked on again"
                if died
                else "the owner before lives and handed over late; what it had not published is worked on again",
                from_offset=low,
                finished_above=finished_above,
                at_most=self._settings.capacity,
                deaths=crashes.deaths,
            )
        return crashes

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
            self._work.take(record)
            self._work.start(at_most=self._tracker.crashes.width)

    async def _may_begin(self, record: Record) -> Refusal | None:
        """Wait until it is noted that work begins here; a refusal where earlier owners died of this record."""
        if not self._begun.is_set():
            self._wake.set()
            # Later on, after having been idle, the note may come while the work is under way.
            if not self._has_noted:
                await self._begun.wait()
        if self._tracker.crashes.refuses_lowest and record.offset == self._tracker.low:
            self._log.error("record refused: each owner that began it died", offset=record.offset)
            return _DEADLY
        return None

    def _result_came(self, took_s: float) -> None:
        self._owes_since = self._owes_since or time.monotonic()
        by = asyncio.get_running_loop().time() + self._settings.gathering_s(took_s)
        self._publish_by = by if self._publish_by is None else min(by, self._publish_by)
        self._wake.set()
        self._on_room()

    # Results ---------------------------------------------------------------------------------------------------------

    async def _publish_until_closing(self, producer: Any) -> None:
        # What others had finished before us lies below our position once it has been read again. If no result comes
        # that carries this along, a commit of its own says so, or it would be shown as lag for ever.
        tidy = False
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            if self._work.running and not self._begun.is_set() and not (self._leaving and self._has_noted):
                await self._note_beginning(producer)
            if self._leaving:
                await self._take_note_back(producer)
            await self._gather()
            self._publish_by = None
            batch = await self._next_batch()
            chosen, commit = self._tracker.largest_commit(batch, self._settings.max_metadata_chars)
            if chosen or (tidy and commit.low > self._tracker.committed_low):
                await self._commit(producer, {offset: batch[offset] for offset in chosen}, commit)
                self._work.start(at_most=self._tracker.crashes.width)
            elif closing:
                await self._take_note_back(producer)
                return
            else:
                tidy = not await self._results_come()

    async def _commit(self, producer: Any, batch: dict[int, list[Outgoing]], commit: Commit) -> None:
        offsets = OffsetAndMetadata(commit.low, commit.metadata)
        async with asyncio.timeout(self._settings.flush_timeout_s):
            await self._transact(producer, batch, offsets)
            # What the network still holds of this transaction is refused from here on.
            await self._kafka.renew(producer)
        self._tracker.apply(commit)
        if not commit.crashes.begun:
            self._begun.clear()
        self._metadata_chars = len(offsets.metadata)
        for offset in batch:
            self._work.published(offset)
        self._slow.took({out.topic for outgoing in batch.values() for out in outgoing})
        self.moved_at = time.monotonic()
        self._owes_since = self._owes()

    def _owes(self) -> float | None:
        """A dead letter that is held back is owed by whoever can make its topic take it, and not by this process."""
        now = time.monotonic()
        return now if any(result.held_until <= now for result in self._work.ready.values()) else None

    async def _note_beginning(self, producer: Any) -> None:
        await self._commit(producer, {}, self._tracker.commit_of_beginning(self._token))
        self._has_noted = True
        self._begun.set()

    async def _take_note_back(self, producer: Any) -> None:
        if self._tracker.crashes.begun:
            await self._commit(producer, {}, self._tracker.commit_of_end())

    async def _results_come(self) -> bool:
        """Wait for results to publish; False if none came for a while."""
        try:
            await asyncio.wait_for(self._wake.wait(), self._settings.idle_s)
        except TimeoutError:
            return False
        if not self._closing.is_set():
            await asyncio.sleep(self._settings.flush_interval_s)
        return True

    async def _gather(self) -> None:
        """Wait for more results to share the transaction, until the first of those that are here is to be published."""
        clock = asyncio.get_running_loop().time
        while self._publish_by is not None and (left_s := self._publish_by - clock()) > 0 and not self._hurries:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left_s)

    @property
    def _hurries(self) -> bool:
        """Whether the results that are here are not to wait for others, or have no others to wait for."""
        return (
            self._closing.is_set()
            or not self._work.running
            or not self._begun.is_set()
            or len(self._work.ready) >= self._settings.flush_results
        )

    async def _next_batch(self) -> dict[int, list[Outgoing]]:
        """What to send for the next results, by offset; those that nobody can take yet are held back."""
        now = time.monotonic()
        due = {offset: result for offset, result in self._work.ready.items() if result.held_until <= now}
        due = self._slow.chosen(due, lambda result: [out.topic for out in result.outgoing], now)
        due = first_results(due, self._settings.flush_results, self._settings.flush_bytes)
        topics = set().union(*map(topics_of, due.values()))
        async with asyncio.timeout(self._settings.flush_timeout_s):
            partitions = {topic: await self._kafka.partitions(topic) for topic in topics}
        batch: dict[int, list[Outgoing]] = {}
        why: set[str] = set()
        for offset, result in due.items():
            try:
                batch[offset] = deliverable(result, partitions)
            except DeadLetterHeld as held:
                result.hold(now, self._settings.hold_s, self._settings.max_hold_s)
                why.add(str(held))
        if why:
            self._log.error("dead letters are held back", why=sorted(why), results=len(due) - len(batch))
            self._owes_since = self._owes_since if batch else self._owes()
        return batch

    async def _transact(self, producer: Any, batch: dict[int, list[Outgoing]], commit: OffsetAndMetadata) -> None:
        await producer.begin_transaction()
        sent: dict[int, list[asyncio.Future[Any]]] = {offset: [] for offset in batch}
        try:
            for offset, outgoing in batch.items():
                for out in outgoing:
                    sent[offset].append(
                        await producer.send(
                            out.topic, value=out.value, key=out.key, partition=out.partition, headers=list(out.headers)
                        )
                    )
            if futures := [one for each in sent.values() for one in each]:
                await asyncio.wait(futures)
        except (asyncio.CancelledError, KafkaError) as error:
            if not isinstance(error, ProducerFenced):
                self._note_slow(batch, sent)
            for one in (one for each in sent.values() for one in each):
                # Nobody waits for it any more: asyncio need not print what becomes of it.
                if not one.cancel() and not one.cancelled():
                    one.exception()
            raise
        # A refused record does not fail the commit by itself: its result would be lost and its offset committed.
        await self._all_taken(batch, sent)
        await producer.send_offsets_to_transaction({self.tp: commit}, self._group)
        await producer.commit_transaction()
        self._on_published(
            self.tp.topic,
            [
                (out, future.result())
                for offset, futures in sent.items()
                for out, future in zip(batch[offset], futures, strict=True)
            ],
        )

    def _note_slow(self, batch: dict[int, list[Outgoing]], sent: dict[int, list[asyncio.Future[Any]]]) -> None:
        """Topics were waited for in vain: those that took nothing, or the first that could not even be sent to."""
        waiting: set[str] = set()
        for offset, outgoing in batch.items():
            waiting |= {out.topic for out, one in zip(outgoing, sent[offset], strict=False) if not one.done()}
            if len(sent[offset]) < len(outgoing):
                waiting.add(outgoing[len(sent[offset])].topic)
                break
        if news := self._slow.waited_for(waiting, time.monotonic()):
            self._log.error("topics take nothing; what goes there is tried alone, and less often", topics=sorted(news))

    async def _all_taken(self, batch: dict[int, list[Outgoing]], sent: dict[int, list[asyncio.Future[Any]]]) -> None:
        """Raises the first error; what brokers will never take is remembered, and sent otherwise the next time."""
        first: BaseException | None = None
        for offset, futures in sent.items():
            for out, outcome in zip(batch[offset], await asyncio.gather(*futures, return_exceptions=True), strict=True):
                if isinstance(outcome, BaseException):
                    first = first or outcome
                    self._work.ready[offset].note(refusals(outcome, {out.topic}), outcome)
        if first is not None:
            raise first
