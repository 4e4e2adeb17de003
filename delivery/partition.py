"""One owned input partition: its lock (a transactional producer), its offsets, its running work and its results.

What can be decided or asked without this state stands in modules of its own: where an owner begins (`opening.py`), what
follows a failure (`recovery.py`), when to publish (`publishing/publish_schedule.py`) and how
(`publishing/publisher.py`). What is left is past 300 lines because opening, work and commits change the same offsets,
and their order is the guarantee: it is to be read in one place.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, assert_never

import structlog
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.budget import Budget
from guideway.delivery.in_flight import Handle, InFlight, Refuse, refuse_by_dead_letter
from guideway.delivery.offsets.crash_history import FATAL
from guideway.delivery.offsets.tracker import Commit, OffsetTracker
from guideway.delivery.opening import Opening
from guideway.delivery.partition_kafka import PartitionKafka
from guideway.delivery.publishing.publish_schedule import (
    NoteBeginning,
    NoteEnd,
    Publish,
    PublishSchedule,
    Situation,
    Wait,
)
from guideway.delivery.publishing.publisher import OnPublished, Publisher
from guideway.delivery.recovery import Rejoin, Reopen, after_failure
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import transactional_id
from guideway.schemas.record import Outgoing, Record

log = structlog.get_logger(__name__)

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
    """Takes records in while it is open, has them worked on, and publishes what comes of them, exactly once.

    `_live` opens it (`_open`), publishes (`_publish_until_closing`), and opens it anew after a failure.

    Work may outlive an ownership: what runs when the partition is taken away is adopted when it comes back. Times are
    seconds of the event loop's clock.
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
        self._log = log.bind(topic=tp.topic, partition=tp.partition)
        self._group = group
        self._token = token
        self._kafka = kafka
        self._settings = settings
        self._opening = Opening(tp, kafka, settings, token, self._log)
        self._tracker = OffsetTracker(0)
        self._metadata_chars = 0
        self._on_room = on_room
        self._is_new, self._has_noted, self._leaving = True, False, False
        self._begun = asyncio.Event()
        self._work = InFlight(handle, refuse, may_begin=self._may_begin, on_result=self._result_came)
        self._publisher = Publisher(
            tp, group=group, kafka=kafka, settings=settings, work=self._work, on_published=on_published
        )
        self._schedule = PublishSchedule(settings)
        self._budget = budget or Budget(settings.held_bytes, lambda: self._work.held_bytes)
        self._out_of_range = False
        self._owes_since: float | None = None
        self.moved_at = float("-inf")
        """When it last opened or published."""
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Records taken in and not finished, but for those at rest."""
        return self._work.unfinished - len(self._work.resting)

    @property
    def in_hand(self) -> int:
        """Records taken in whose results are not published."""
        return self._work.unfinished + len(self._work.ready)

    @property
    def held_bytes(self) -> int:
        """Of the records taken in and of what came of them, until it is published."""
        return self._work.held_bytes

    @property
    def recovers(self) -> bool:
        """Whether an owner has died since the lowest record was last finished."""
        return self._tracker.crashes.deaths > 0

    @property
    def in_single_file(self) -> bool:
        """Whether so many owners have died that one record is worked on at a time: one that rests holds up the others.

        None of them begins beside it, for whatever a process dies of then, the lowest would be blamed.
        """
        return self._tracker.crashes.width == 1

    @property
    def accepting(self) -> bool:
        """Whether more records may be taken in: bounds memory, and the metadata that tells what is finished."""
        return (
            self.phase is Phase.OPEN
            and len(self._tracker.pending) < self._settings.partition_capacity
            and len(self._work.resting) < self._settings.resting_capacity
            and self._metadata_chars <= self._settings.pause_metadata_chars
            and self._budget.admits(self._work.held_bytes)
        )

    @property
    def owes_since(self) -> float | None:
        """Since when the partition has been waiting to open or to publish; None: it owes nothing."""
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
        self._owes_since = _now()
        self._life = asyncio.create_task(self._live(), name=f"own {self.tp.topic}/{self.tp.partition}")

    async def disown(self, timeout_s: float) -> None:
        """Publish what is ready and give the partition up; running work goes on for `abandon` or the next `own`."""
        life, self._life = self._life, None
        if life is None:
            return
        self._closing.set()
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await life
        self.phase = Phase.CLOSED
        self._owes_since = None

    def abandon(self) -> None:
        """Stop the running work: the partition is somebody else's now."""
        self._work.drop(lambda offset: True)

    @contextlib.asynccontextmanager
    async def resting(self, offset: int) -> AsyncIterator[None]:
        """While this lasts, the work on this record waits for something, and costs nothing meanwhile.

        Where an owner has died and nothing but such work is left, it is noted that none is under way: whatever a
        process dies of then, it is none of these records. So before work goes on, it is noted that it does.
        """
        with self._work.rest(offset):
            if self.recovers:
                self._wake.set()
            yield
            if self.recovers and not self._leaving and not self._begun.is_set():
                self._work.waking.add(offset)
                self._wake.set()
                await self._begun.wait()

    def leave(self) -> None:
        """The process is told to end: whatever becomes of the running work, its end is no death."""
        self._leaving = True
        if self._has_noted:
            # No more work is noted: whoever waits for that goes on.
            self._begun.set()
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
            producer = self._kafka.producer(transactional_id(self._group, *self.tp))
            if self._publisher.in_small_batches:
                self._kafka.in_small_batches(producer)
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
                        self._owes_since = self._owes_since or _now()
                        self._log.warning("another process took the partition's lock; the group is asked whose it is")
                        return
                    case Reopen(wait_s, expected, helps):
                        self.phase = Phase.OPENING
                        self._owes_since = (self._owes_since or _now()) if helps else None
                        self._log.warning("partition reopens", error=repr(error), exc_info=not expected)
            finally:
                self._discard(producer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._closing.wait()

    def _discard(self, producer: Any) -> None:
        # In the background: nobody has to wait, for the next producer fences this one.
        task = asyncio.create_task(self._kafka.discard(producer))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _open(self, producer: Any) -> None:
        """Become the partition's owner. The order carries the guarantee. Raises KafkaError, TimeoutError and others.

        1. Initialise the producer. This fences every earlier owner and ends its open transaction: only from here on is
           what was committed the last word.
        2. Read what was committed, and learn from it what is finished and how the owners before have ended.
        3. Where the brokers have no record at that position, go on where they have some.
        4. Keep the work that runs since an earlier ownership, as far as nobody else has finished it; drop the rest.
        5. Read on from the lowest offset that is not finished.
        6. Let records in.
        """
        timeout_s = self._settings.open_timeout_s
        async with asyncio.timeout(timeout_s):
            await producer.start()
        async with asyncio.timeout(timeout_s):
            committed = await self._kafka.committed(self.tp)
        self._tracker = await self._opening.tracker(committed, is_new=self._is_new)
        if self._out_of_range:
            await self._find_range()
        self._is_new = False
        if not self._tracker.crashes.begun:
            # A commit that said so may have taken effect though its answer was lost: work is to be noted again.
            self._begun.clear()
        self._work.drop(lambda offset: not self._tracker.adopt(offset))
        self._kafka.seek(self.tp, self._tracker.low)
        self._metadata_chars = len(committed.metadata) if committed else 0
        self._let_in()

    async def _find_range(self) -> None:
        before, self._tracker = self._tracker.low, await self._opening.in_range(self._tracker)
        if self._tracker.low < before:
            # These offsets mean other records now.
            self.abandon()
        self._out_of_range = False

    def _let_in(self) -> None:
        self.phase = Phase.OPEN
        self.moved_at = _now()
        self._owes_since = self._owes(self.moved_at)
        self._wake.set()
        self._on_room()

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
            # Later on, after having been idle, the note may come while the work is under way. Not where an owner has
            # died: while others rest there, no death would count of a record that kills at once.
            if not self._has_noted or (self.recovers and not self._leaving):
                await self._begun.wait()
        if self._tracker.crashes.refuses_lowest and record.offset == self._tracker.low:
            self._log.error("record refused: each owner that began it died", offset=record.offset)
            return _DEADLY
        return None

    def _result_came(self, took_s: float) -> None:
        self._owes_since = self._owes_since or _now()
        self._schedule.result_came(took_s, _now())
        self._wake.set()
        self._on_room()

    # Results ---------------------------------------------------------------------------------------------------------

    async def _publish_until_closing(self, producer: Any) -> None:
        """Do what the schedule says, until the partition is given up and nothing is left to publish."""
        self._schedule.opened()
        while True:
            self._wake.clear()
            match self._schedule.next(self._situation(), _now()):
                case NoteBeginning():
                    await self._note_beginning(producer)
                case NoteEnd():
                    await self._note_end(producer)
                case Publish(tidy, last):
                    if not await self._publish(producer, tidy=tidy) and last:
                        await self._note_end(producer)
                        return
                case Wait(until):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(until):
                            await self._wake.wait()
                case step:
                    assert_never(step)

    def _situation(self) -> Situation:
        return Situation(
            running=self._work.under_way,
            finished=len(self._work.ready),
            may_begin=self._begun.is_set(),
            has_noted=self._has_noted,
            note_stands=self._tracker.crashes.begun,
            leaving=self._leaving,
            rests=self.recovers and bool(self._work.resting) and not self._work.under_way,
            closing=self._closing.is_set(),
        )

    async def _publish(self, producer: Any, *, tidy: bool) -> bool:
        """Publish the next results; False if there was nothing to commit.

        `tidy`: commit without results where the low watermark has moved. What others had finished before us lies below
        our position once it was read again. If no result came that carries this along, it would be shown as lag for
        ever.
        """
        now = _now()
        batch = await self._publisher.next_batch(now)
        if batch.holds_back and not batch.records:
            self._owes_since = self._owes(now)
        chosen, commit = self._tracker.largest_commit(batch.records, self._settings.max_metadata_chars)
        if not chosen and not (tidy and commit.low > self._tracker.committed_low):
            self._schedule.found_nothing(_now())
            return False
        await self._commit(producer, {offset: batch.records[offset] for offset in chosen}, commit)
        self._work.start(at_most=self._tracker.crashes.width)
        return True

    async def _note_beginning(self, producer: Any) -> None:
        """Commit that work is under way, and let it begin."""
        await self._commit(producer, {}, self._tracker.commit_of_beginning(self._token))
        self._has_noted = True
        self._begun.set()

    async def _note_end(self, producer: Any) -> None:
        """Commit that no work is under way, if the last commit says otherwise."""
        if self._tracker.crashes.begun:
            # What goes on meanwhile is to be noted first.
            self._begun.clear()
            await self._commit(producer, {}, self._tracker.commit_of_end())

    async def _commit(self, producer: Any, records: Mapping[int, list[Outgoing]], commit: Commit) -> None:
        """Make results and what they finish visible together. Raises KafkaError, TimeoutError.

        1. Publish the records (by offset) and the commit in one transaction.
        2. Give the producer a new epoch: what the network still holds of this transaction is refused from here on.
        3. Take note of what is finished.
        4. Forget the results.
        """
        offsets = OffsetAndMetadata(commit.low, commit.metadata)
        async with asyncio.timeout(self._settings.flush_timeout_s):
            await self._publisher.transact(producer, records, offsets)
            await self._kafka.renew(producer)
        self._tracked(commit, offsets)
        for offset in records:
            self._work.published(offset)
        self.moved_at = _now()
        self._owes_since = self._owes(self.moved_at)

    def _tracked(self, commit: Commit, offsets: OffsetAndMetadata) -> None:
        self._tracker.apply(commit)
        self._metadata_chars = len(offsets.metadata)
        if not commit.crashes.begun:
            self._begun.clear()

    def _owes(self, now: float) -> float | None:
        """`now`, or None where nothing can be published now.

        A dead letter that is held back is owed by whoever can make its topic take it, and not by this process.
        """
        return now if any(result.held_until <= now for result in self._work.ready.values()) else None


def _now() -> float:
    """Seconds of the event loop's clock. It is that of `time.monotonic`, by which the watchdog looks."""
    return asyncio.get_running_loop().time()
