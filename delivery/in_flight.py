"""The records of one partition that are taken in: they wait, are worked on, and have a result until it is published."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import structlog

from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.publishing.deliverable import Result
from guideway.delivery.settings import MAX_HEADERS, MAX_READ_BYTES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record, Withheld

log = structlog.get_logger(__name__)

Handle = Callable[[Record], Awaitable[list[Outgoing]]]
"""Works on one record and returns what to publish for it. Every failure that it foresees becomes a reply."""

Refuse = Callable[[Record, Refusal], Awaitable[list[Outgoing]]]
"""Returns what to publish for a record that is refused without being worked on."""


async def refuse_by_dead_letter(record: Record, refusal: Refusal) -> list[Outgoing]:
    """A `Refuse` for pipelines that have nobody to reply to."""
    return [dead_letter(record, refusal.code, refusal.message)]


class InFlight:
    """Owns the tasks that do the work. It knows nothing of commits and of who owns the partition."""

    def __init__(
        self,
        handle: Handle,
        refuse: Refuse,
        *,
        may_begin: Callable[[Record], Awaitable[Refusal | None]],
        on_result: Callable[[float], None],
    ) -> None:
        """`may_begin` is awaited before each record. If it returns a refusal, the record is refused and not worked on.

        `on_result` is told how many seconds a record took.
        """
        self._handle = handle
        self._refuse = refuse
        self._may_begin = may_begin
        self._on_result = on_result
        self._waiting: deque[Record] = deque()
        self._bytes: dict[int, int] = {}
        self.held_bytes = 0
        """Bytes of all records taken in and of their results, until these are published."""
        self.running: dict[int, asyncio.Task[None]] = {}
        """The tasks that do the work, by offset."""
        self.resting: set[int] = set()
        """Of those: whose work waits for something and costs nothing meanwhile, by offset."""
        self.waking: set[int] = set()
        """Of those: who are to go on, once that is noted."""
        self.ready: dict[int, Result] = {}
        """Finished and not yet published, by offset, in the order in which they finished."""

    @property
    def under_way(self) -> int:
        """How many records are worked on, or are to be."""
        return len(self.running) - len(self.resting) + len(self.waking)

    @property
    def unfinished(self) -> int:
        """How many records are taken in and have no result."""
        return len(self.running) + len(self._waiting)

    def take(self, record: Record) -> None:
        """Let a record wait for `start`."""
        self._waiting.append(record)
        self._weigh(record.offset, record.held_bytes)

    def start(self, *, at_most: int | None) -> None:
        """Start records that wait, while fewer than `at_most` run or are still to be published (None: all)."""
        while self._waiting and (at_most is None or len(self.running) + len(self.ready) < at_most):
            record = self._waiting.popleft()
            self.running[record.offset] = asyncio.create_task(self._work(record))

    def drop(self, is_lost: Callable[[int], bool]) -> None:
        """Forget what waits, for it will be read again; stop and forget the work on each offset that `is_lost`."""
        self._forget_waiting()
        for offset in [*self.running, *self.ready]:
            if is_lost(offset):
                self.ready.pop(offset, None)
                self._weigh(offset, 0)
                if task := self.running.pop(offset, None):
                    task.cancel()

    @contextlib.contextmanager
    def rest(self, offset: int) -> Iterator[None]:
        """While this lasts, the work on this record rests."""
        self.resting.add(offset)
        try:
            yield
        finally:
            self.resting.discard(offset)
            self.waking.discard(offset)

    async def finish(self, timeout_s: float) -> None:
        """Wait for the running work, at most so long. Records that wait, or whose work rests, are forgotten."""
        self._forget_waiting()
        self.drop(self.resting.copy().__contains__)
        if self.running:
            await asyncio.wait(self.running.values(), timeout=timeout_s)

    def published(self, offset: int) -> None:
        """Forget the result of this record: it is published."""
        del self.ready[offset]
        self._weigh(offset, 0)

    def _forget_waiting(self) -> None:
        for record in self._waiting:
            self._weigh(record.offset, 0)
        self._waiting.clear()

    def _weigh(self, offset: int, size: int) -> None:
        self.held_bytes += size - self._bytes.pop(offset, 0)
        if size:
            self._bytes[offset] = size

    async def _work(self, record: Record) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            refusal = await self._may_begin(record) or _too_large(record)
            outgoing = await (self._handle(record) if refusal is None else self._refuse(record, refusal))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("handler failed", topic=record.topic, partition=record.partition, offset=record.offset)
            outgoing = [dead_letter(record, FailureCode.INTERNAL_ERROR, f"{type(error).__name__} in the handler")]
        del self.running[record.offset]
        self.ready[record.offset] = Result(record, outgoing)
        self._weigh(record.offset, record.held_bytes + sum(out.held_bytes for out in outgoing))
        self._on_result(clock() - began)


def _too_large(record: Record) -> Refusal | None:
    if not isinstance(record.value, Withheld):
        return None
    return Refusal(
        FailureCode.TEXT_TOO_LONG,
        f"the record has {record.value.record_bytes} bytes and {len(record.headers)} headers; it may have "
        f"{MAX_READ_BYTES} bytes and, beyond 256 KiB, {MAX_HEADERS} headers: shorten it",
    )
