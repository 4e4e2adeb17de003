"""Carries out one job: sends its pieces, collects the replies, and ends it. Whoever does it goes on where it stands.

All that is known of a job stands in Kafka and in the store, so a batcher may die at any moment:

- a piece is published in one transaction with the number of pieces that are published;
- its results are written once every row has a reply, or in parts; until then the replies can be read again from the
  topic, from an offset that was committed with the piece;
- how the job ends is decided once, in the store, before its output is joined of all pieces.

A row that was published is never published again, but where its replies are gone from the topic, or where its failure
may pass. Then there may be two replies, and the first counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import structlog
from aiokafka.errors import KafkaError, ProducerFenced

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.transaction_guards import OutcomeUnknown
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.joining import join
from guideway.producers.batch.open_piece import ALL, Next, Notes, OpenPiece, to_resume
from guideway.producers.batch.ordering import endpoints_of, rows_of, sending_order
from guideway.producers.batch.parts import Finished
from guideway.producers.batch.results.table import require_parquet
from guideway.producers.batch.road import Road, Way
from guideway.producers.batch.stored import Damaged, Decision, Index, RequestIds, StoredRow, total
from guideway.producers.batch.trouble import GONE, NO_ROWS, Trouble, insisted, silence
from guideway.producers.batch.window import WINDOW_ROWS, Window
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.batch import BatchEnded, BatchJob, BatchProgress, Counts, Outcome

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LAST_REPLIES_S: Final = 10.0
"""After the deadline, or once the job is cancelled: what was published is answered meanwhile."""
_WAIT_S: Final = 0.1
_REST_S: Final = 1.0
"""The same of a job that rests, of which there may be many: what comes is seen at once all the same."""
_FENCED_REST_S: Final = 20.0
"""Another batcher has the job: until the group says so too, it is not to be disturbed."""

_HOLDS_S: Final = 60.0
"""A road that has been open for so long is a good one, though nobody may answer yet."""
_GIVES_UP_S: Final = 600.0
"""A job that is called off ends after so long though its road does not open: what was answered there stays unread."""
RESTS_S: Final = 30.0
"""A job of which nothing has moved for so long only waits."""

Tell = Callable[[BatchProgress], Awaitable[None]]


class JobRun:
    """One job. Call `carry_out` once; it may be cancelled at any moment."""

    def __init__(
        self,
        cluster: Cluster,
        folder: JobFolder,
        job: BatchJob,
        way: Way,
        tell: Tell,
        *,
        share: Callable[[], int],
        joining: asyncio.Lock,
    ) -> None:
        """tell: is told how far it is, often. share: how many jobs share the rows that may be unanswered.

        joining: held while the output is joined, which takes a thread and the processor, of a large job for minutes.
        """
        self._joining = joining
        self._cluster, self._folder, self._job, self._way = cluster, folder, job, way
        self._tell, self._share = tell, share
        self._ids = RequestIds(job.id, job.secret)
        self._cancelled = asyncio.Event()
        self.let_go = asyncio.Event()
        """Set by whoever has it carried out, once that is over."""
        self._finished, self._notes = Finished(), Notes(folder)
        self._window: Window | None = None
        self._read: tuple[int, list[StoredRow]] | None = None
        """The piece of the input that was read last: it is published a moment later."""
        self._stage: Any = "running"
        self._trouble = Trouble()

    @property
    def rests(self) -> bool:
        """Whether it only waits, for brokers or for whoever answers its rows."""
        return self._stage == "running" and self._trouble.still_s >= RESTS_S

    def cancel(self) -> None:
        """Send no more rows, and end with what is there."""
        self._cancelled.set()

    async def carry_out(self) -> BatchEnded:
        """Returns how the job has ended, with its output in the store."""
        try:
            # Its pieces are gone by then: offsets that Kafka has forgotten bring its record again.
            if (before := await self._stored(self._folder.ended)) is not None:
                return before
            if self._job.form == "parquet":
                # Not after a night, when all is answered.
                require_parquet()
            index = await self._stored(lambda: self._folder.index(self._job.index), missing=NO_ROWS)
            if len(index.pieces) != self._job.pieces or index.firsts[-1] != self._job.rows:
                raise Damaged("the list of its pieces does not agree with the job")
            decision = await self._stored(self._folder.decision)
            if decision is None:
                self._finished = await self._stored(self._folder.finished)
                outcome = await self._until_answered(index)
                decision = Decision(outcome, _now_ms())
                await self._stored(lambda: self._folder.decide(decision))
            self._stage = "ending"
            await self._report()
            async with self._joining:
                names = await self._stored(lambda: join(self._folder, self._job, index, decision))
            ended = self._ended(decision.outcome, names.counts, output=names.output, errors=names.errors)
            await self._stored(lambda: self._folder.end(ended))
            return ended
        except Damaged as damaged:
            log.error("a batch job cannot be carried out", job=self._job.id, why=str(damaged))
            message = f"{damaged}: submit the file again"
            return self._ended("failed", self.counts, code=FailureCode.INVALID_DATA.value, message=message)
        except Refusal as refusal:
            log.error("a batch job cannot be carried out", job=self._job.id, code=refusal.code.value)
            return self._ended("failed", self.counts, code=refusal.code.value, message=refusal.message)

    def _ended(self, outcome: Outcome, counts: Counts, **more: str) -> BatchEnded:
        return BatchEnded(job=self._job.id, at_ms=_now_ms(), outcome=outcome, counts=counts, **more)

    @property
    def counts(self) -> Counts:
        """How far the job is."""
        under_way = [] if self._window is None else [one.counts for one in self._window.open.values()]
        return total([self._finished.counts, *under_way])

    # On the road ------------------------------------------------------------------------------------------------------

    async def _until_answered(self, index: Index) -> Outcome:
        """Returns when every row has an answer, or is to get none."""
        called_off_at: float | None = None
        while True:
            try:
                async with Road.open(self._cluster, self._way) as road:
                    window = self._window = Window(self._ids, index, self._finished)
                    sent = await self._go_on(road, window, index)
                    return await self._drive(road, window, index, sent)
            except (KafkaError, TimeoutError, Refusal) as error:
                fenced = isinstance(error, ProducerFenced) and not isinstance(error, OutcomeUnknown)
                rest_s = max(self._trouble.brokers_failed(error), _FENCED_REST_S if fenced else 0.0)
                log.warning("a batch job begins its road anew", job=self._job.id, error=repr(error), rest_s=rest_s)
                await self._report()
                if (outcome := self._called_off(time.time(), self._job.deadline_ms / 1000)) is not None:
                    called_off_at = called_off_at or time.monotonic()
                    if time.monotonic() - called_off_at >= _GIVES_UP_S:
                        for piece in self._window.open.values() if self._window is not None else ():
                            await self._write(piece)
                        return outcome
                await asyncio.sleep(rest_s)

    async def _go_on(self, road: Road, window: Window, index: Index) -> int:
        """Take up what is published and not answered; returns how many pieces were gone through."""
        sent, told = await road.committed()
        noted = await self._stored(lambda: self._notes.read(told))
        oldest, end = await road.first_reply(), await road.end_of_replies()
        sent, position = min(sent, len(index.pieces)), end
        window.behind = {endpoint: one.row for endpoint, one in noted.behind.items()}
        # In their order, so that each piece is read once.
        for one, reply_from in sorted(to_resume(noted, index, sent), key=lambda found: found[0].piece):
            if self._finished.is_whole(one.piece):
                continue
            is_there = oldest <= reply_from <= end
            rows = window.resume(one, await self._rows(index, one.piece), reply_from if is_there else end)
            if rows and not is_there:
                # Its replies may be gone from the topic, or the topic was made anew.
                await road.publish(sending_order(rows))
            if rows:
                position = min(position, reply_from if is_there else end)
        road.read_from(position)
        return sent

    async def _drive(self, road: Road, window: Window, index: Index, sent: int) -> Outcome:
        """Send, collect, write: until nothing is left to do."""
        deadline, began, pieces = self._job.deadline_ms / 1000, time.monotonic(), len(index.pieces)
        while True:
            outcome = self._called_off(time.time(), deadline)
            if outcome is not None:
                return await self._wind_up(road, window, index, outcome, is_all_sent=sent >= pieces)
            while sent < pieces and self._finished.is_whole(sent):
                sent += 1
            endpoints = await self._endpoints(index, sent) if sent < pieces else []
            one = window.next(sent, endpoints, WINDOW_ROWS // max(1, self._share()), time.time())
            if one is not None:
                sent += one.endpoint == ALL
                await self._send(road, window, index, one, sent)
            wait_s = 0.0 if one is not None else _REST_S if self.rests else _WAIT_S
            await self._collect(road, window, deadline, wait_s)
            if time.monotonic() - began > _HOLDS_S:
                self._trouble.is_carried()
            for number, due in window.due(time.time()).items():
                rows = await self._rows(index, number)
                await road.publish(rows_of(index, number, rows, due))
            if sent >= pieces and not window.open and not window.behind:
                return "done"

    def _called_off(self, now: float, deadline: float) -> Outcome | None:
        if self._cancelled.is_set():
            return "cancelled"
        return "expired" if now >= deadline else None

    async def _send(self, road: Road, window: Window, index: Index, one: Next, sent: int) -> None:
        rows = window.publish(one, await self._rows(index, one.piece), await road.position())
        if rows:
            noted = await self._stored(lambda: self._notes.committable(window.noted()))
            await road.publish(sending_order(rows), sent, noted)
            self._trouble.moves()

    async def _rows(self, index: Index, number: int) -> list[StoredRow]:
        if self._read is None or self._read[0] != number:
            self._read = number, await self._stored(lambda: self._folder.rows(index, number))
        return self._read[1]

    async def _endpoints(self, index: Index, number: int) -> Iterable[int]:
        return index.pieces[number].endpoints or endpoints_of(index, await self._rows(index, number))

    async def _collect(self, road: Road, window: Window, deadline: float, wait_s: float) -> None:
        """Take in what has come, and write the pieces that are finished."""
        for reply in await road.replies(wait_s):
            if window.take(reply, time.time(), deadline):
                self._trouble.moves()
        for piece in window.finished():
            await self._write(piece)
            window.close(piece)
        for piece in window.spilling():
            await self._write(piece)
        await self._report()

    async def _write(self, piece: OpenPiece) -> None:
        if piece.replies:
            part = piece.part()
            await self._stored(lambda: self._folder.put_part(piece.number, part))
            piece.is_written()
            self._finished.add(piece.number, part.head)

    async def _wind_up(
        self, road: Road, window: Window, index: Index, outcome: Outcome, *, is_all_sent: bool
    ) -> Outcome:
        """Wait a little for what is still answered; the rest gets a failure that says why. A job that turns out to have
        met its deadline is done; one that somebody has cancelled is cancelled, whatever came of its rows.
        """
        self._stage = "cancelling"
        await self._report()
        if outcome == "cancelled":
            for piece in list(window.open.values()):
                rows = await self._rows(index, piece.number)
                await road.cancel(rows_of(index, piece.number, rows, piece.waiting))
        until = time.monotonic() + _LAST_REPLIES_S
        while window.open and time.monotonic() < until:
            # Nothing is sent again any more.
            await self._collect(road, window, 0.0, _WAIT_S)
        late = FailureCode.DEADLINE_EXCEEDED.value in self.counts.failures
        if outcome == "expired" and is_all_sent and not (window.open or window.behind or late):
            return "done"
        for piece in window.open.values():
            await self._write(piece)
        return outcome

    # The store and the watchers ---------------------------------------------------------------------------------------

    async def _stored(self, do: Callable[[], T], missing: str = GONE) -> T:
        """Do this in the store, however long that takes. Raises Damaged, Refusal."""
        found = await insisted(do, missing, self._held_up)
        self._trouble.is_stored()
        return found

    async def _held_up(self, trouble: str) -> None:
        log.error("the store does not take what a batch job needs", job=self._job.id, trouble=trouble)
        self._trouble.said = trouble
        await self._report()

    async def _report(self) -> None:
        window, trouble = self._window, self._trouble.said
        if window is not None and self._stage == "running" and not trouble:
            trouble = silence(window.silent(time.time()), is_full=bool(window.stuck))
        with contextlib.suppress(KafkaError):
            await self._tell(
                BatchProgress(job=self._job.id, at_ms=_now_ms(), stage=self._stage, counts=self.counts, trouble=trouble)
            )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
