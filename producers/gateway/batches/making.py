"""Makes jobs of accepted batches, beside all requests. What a gateway that died has begun, another one goes on with.

Two gateways may make a job of one batch at a time, where one seemed to be dead: both write the same pieces, or each its
own, and of two records of one job the first is carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import BinaryIO, Final

import structlog

from guideway.producers.batch.files.check import check_file
from guideway.producers.batch.files.reading import read_rows
from guideway.producers.batch.files.row import BadRow, BatchRow
from guideway.producers.batch.files.survey import Lines, survey
from guideway.producers.batch.jobs import Jobs, Wanted
from guideway.producers.gateway.batches.accepted import AcceptedBatch, AcceptedStore, NotMade
from guideway.producers.gateway.batches.file_forms import form_of
from guideway.producers.gateway.batches.file_store import About, FileStore
from guideway.producers.gateway.batches.job_list import JobList
from guideway.producers.gateway.batches.objects import notes_of
from guideway.producers.gateway.batches.reading_turns import Turns
from guideway.producers.gateway.batches.serving import no_file
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.openai.refused import Wrong
from guideway.producers.gateway.status import DoorCode
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import batch_topic

log = structlog.get_logger(__name__)

LOOK_S: Final = 5.0
"""Between two looks at what others have left, and two signs of life."""
SILENT_LOOKS: Final = 4
"""A batch of which nobody has told anything for so many looks is taken over."""
_LEFT_LOOKS: Final = 3 * SILENT_LOOKS
"""The same of one that this gateway has left: others have a chance first."""
_SWEEP_LOOKS: Final = 720
"""An hour."""
_AGAIN_S: Final = 10.0
_MOST_FAULTS: Final = 30
"""Errors of no known kind, after which a batch fails: five minutes."""
_MOST_OS_ERRORS: Final = 6
"""Of one, after which a batch is left to other gateways: this one's disk may be full, or its way to the store cut."""
_SEEN_S: Final = 2.0
"""After it is published: every gateway sees the job by then."""
_PASSES: Final = frozenset({FailureCode.BROKER_UNREACHABLE, FailureCode.LOGIN_REFUSED})
_Which = tuple[str, str]
"""(namespace, id) of a batch."""


class _GivenUp(Exception):
    """The rest of the file is not wanted any more."""


class _Left(Exception):
    """Other gateways are to make a job of it."""


class Making:
    """Owner of the batches of which this process makes jobs."""

    def __init__(
        self, gateway: Gateway, accepted: AcceptedStore, files: FileStore, jobs: Jobs, listed: JobList
    ) -> None:
        self._gateway, self._accepted, self._files = gateway, accepted, files
        self._jobs, self._list = jobs, listed
        self._me = secrets.token_hex(8).encode()
        self._under_way: dict[_Which, asyncio.Task[None]] = {}
        self._given_up: dict[_Which, threading.Event] = {}
        self._seen: dict[_Which, tuple[bytes, int]] = {}
        """What others told last, and for how many looks it has been the same."""
        self._faults: Counter[_Which] = Counter()
        self._os_errors: Counter[_Which] = Counter()
        self._left: set[_Which] = set()
        """What this process could make no job of."""
        self._turns = Turns()
        self._of_one: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One file of a namespace at a time: then namespaces take turns."""

    async def run(self) -> None:
        """Look for what others have left, until it is cancelled."""
        look = 0
        try:
            while True:
                try:
                    await self._look(look := look + 1)
                except Exception as error:
                    # The store may be away for a while.
                    log.warning("accepted batches cannot be looked for", error=type(error).__name__)
                await asyncio.sleep(LOOK_S)
        finally:
            for event in self._given_up.values():
                event.set()
            for task in (tasks := list(self._under_way.values())):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, namespace: str, id_: str) -> None:
        """Make a job of it, unless this process does already."""
        which = (namespace, id_)
        if which not in self._under_way:
            task = self._under_way[which] = asyncio.create_task(self._make(namespace, id_), name="a job is made")
            task.add_done_callback(lambda _task: self._under_way.pop(which, None))

    def cancelled(self, namespace: str, id_: str) -> None:
        """Somebody has cancelled it: what reads its file here reads no more."""
        if (event := self._given_up.get((namespace, id_))) is not None:
            event.set()

    async def _look(self, number: int) -> None:
        if number % _SWEEP_LOOKS == 1:
            before_ms = _now_ms() - self._gateway.settings.kept_s * 1000
            for namespace, id_ in await asyncio.to_thread(self._accepted.over, before_ms):
                await asyncio.to_thread(self._accepted.forget, namespace, id_)
        left = await asyncio.to_thread(self._accepted.left)
        self._seen = {which: seen for which, seen in self._seen.items() if which in set(left)}
        self._left.intersection_update(left)
        for which in left:
            try:
                await self._look_at(which, number)
            except Exception as error:
                # What is wrong with one keeps no other from being made.
                log.warning("an accepted batch cannot be looked at", batch=which[1], error=type(error).__name__)

    async def _look_at(self, which: _Which, number: int) -> None:
        namespace, id_ = which
        if which in self._under_way:
            await asyncio.to_thread(self._accepted.put_lease, namespace, id_, self._me + b" %d" % number)
            standing = await asyncio.to_thread(self._accepted.one, namespace, id_)
            if standing is None:
                # It was forgotten a moment ago, and now has a lease again.
                await asyncio.to_thread(self._accepted.forget, namespace, id_)
            elif standing.is_cancelled:
                self.cancelled(namespace, id_)
            return
        lease = await asyncio.to_thread(self._accepted.lease, namespace, id_)
        before, looks = self._seen.get(which, (lease, 0))
        self._seen[which] = lease, looks + 1 if lease == before else 0
        if self._seen[which][1] >= (_LEFT_LOOKS if which in self._left else SILENT_LOOKS):
            log.warning("a batch that another gateway has accepted is taken over", namespace=namespace, batch=id_)
            self.begin(namespace, id_)

    async def _make(self, namespace: str, id_: str) -> None:
        which = (namespace, id_)
        event = self._given_up[which] = threading.Event()
        try:
            await asyncio.to_thread(self._accepted.put_lease, namespace, id_, self._me)
            while True:
                async with self._of_one[namespace]:
                    if await self._is_done(namespace, id_, event):
                        break
                await asyncio.sleep(_AGAIN_S)  # The others of its namespace have their turns meanwhile.
            standing = await asyncio.to_thread(self._accepted.one, namespace, id_)
            if standing is not None and standing.ended is None:
                await asyncio.sleep(_SEEN_S)
                await asyncio.to_thread(self._accepted.forget, namespace, id_)
        except _Left:
            self._left.add(which)
            self._seen.pop(which, None)
        except OSError as error:
            # Whoever looks next does it.
            log.warning("an accepted batch is not forgotten yet", batch=id_, error=type(error).__name__)
        finally:
            event.set()
            del self._faults[which], self._os_errors[which], self._given_up[which]

    async def _is_done(self, namespace: str, id_: str, event: threading.Event) -> bool:
        """Whether nothing is left to do; False: it is to be tried again."""
        which = (namespace, id_)
        try:
            await self._made(namespace, id_, event)
        except (Refusal, OSError) as error:
            what = error.message if isinstance(error, Refusal) else error.strerror or type(error).__name__
            log.warning("no job can be made of a batch now", namespace=namespace, batch=id_, error=what)
            self._os_errors[which] += isinstance(error, OSError)
            if self._os_errors[which] >= _MOST_OS_ERRORS:
                await self._leave(namespace, id_, what)
            return False
        except Exception as error:
            self._faults[which] += 1
            if self._faults[which] < _MOST_FAULTS:
                # Stores have errors of their own, which pass.
                log.warning("no job can be made of a batch now", batch=id_, error=type(error).__name__)
                return False
            # Else its caller would wait for ever.
            log.exception("no job can be made of a batch", namespace=namespace, batch=id_)
            message = f"{type(error).__name__} in the gateway: report it, with its log"
            failed = NotMade(outcome="failed", at_ms=_now_ms(), code=FailureCode.INTERNAL_ERROR.value, message=message)
            await asyncio.to_thread(self._accepted.end, namespace, id_, failed)
        return True

    async def _leave(self, namespace: str, id_: str, what: str) -> None:
        """Raises _Left."""
        log.error("a batch is left to other gateways", namespace=namespace, batch=id_, error=what)
        why = f"a gateway could make no job of it ({what}), and has left it to the others; it is tried again"
        with contextlib.suppress(Exception):
            # The store may be what fails.
            await asyncio.to_thread(self._accepted.held_up, namespace, id_, why)
        raise _Left

    async def _made(self, namespace: str, id_: str, event: threading.Event) -> None:
        """Raises OSError, and Refusal where it may be tried again."""
        standing = await asyncio.to_thread(self._accepted.one, namespace, id_)
        if standing is None or standing.ended is not None:
            return
        if not await self._has_job(namespace, id_):
            ended = await self._not_made(namespace, standing.batch, event)
            if ended is not None and not await self._has_job(namespace, id_):
                there = await asyncio.to_thread(self._accepted.one, namespace, id_)
                if there is None or there.ended is not None:
                    return
                await asyncio.to_thread(self._accepted.end, namespace, id_, ended)
                # Another gateway may be about to publish it: what is written is that job's then.
                await asyncio.sleep(_SEEN_S)
                if not await self._has_job(namespace, id_):
                    with contextlib.suppress(OSError):
                        await asyncio.to_thread(self._jobs.folder(namespace, id_).remove)
                return
        self._list.changed(namespace)
        standing = await asyncio.to_thread(self._accepted.one, namespace, id_)
        if standing is not None and standing.is_cancelled:
            with contextlib.suppress(Refusal):
                await self._jobs.cancel(namespace, id_)

    async def _has_job(self, namespace: str, id_: str) -> bool:
        self._list.changed(namespace)
        return any(one.job.id == id_ for one in await self._list.of(namespace))

    async def _not_made(self, namespace: str, batch: AcceptedBatch, event: threading.Event) -> NotMade | None:
        """Publish the job; or why there is none. Raises as `_made`."""
        file, param = batch.ask.input_file_id, "input_file_id"
        try:
            standing = await asyncio.to_thread(self._accepted.one, namespace, batch.id)
            if standing is not None and standing.is_cancelled:
                raise _GivenUp
            if _now_ms() >= batch.deadline_ms:
                return NotMade(outcome="expired", at_ms=_now_ms())
            about = await asyncio.to_thread(self._files.about, namespace, file)
            if about is None:
                raise FileNotFoundError
            await self._submit(namespace, batch, about, event)
            return None
        except _GivenUp:
            return NotMade(outcome="cancelled", at_ms=_now_ms())
        except FileNotFoundError:
            code, message = str(DoorCode.UNKNOWN_REQUEST), no_file(namespace, file).message
        except Wrong as wrong:
            code, message, param = str(wrong.told), wrong.message, wrong.param or param
        except Refusal as refusal:
            if refusal.code in _PASSES:
                raise
            code, message = refusal.code.value, refusal.message
        return NotMade(outcome="failed", at_ms=_now_ms(), code=code, message=message, param=param)

    async def _submit(self, namespace: str, batch: AcceptedBatch, about: About, event: threading.Event) -> None:
        catalogue, form = self._gateway.catalogue_reader.catalogue, form_of(about, batch.ask.endpoint)
        wanted = Wanted(
            deadline_s=(batch.deadline_ms - batch.created_ms) / 1000,
            submitted_ms=batch.created_ms,
            name=about.filename,
            notes=notes_of(batch.ask),
            id=batch.id,
        )

        def go_on() -> None:
            if event.is_set():
                raise _GivenUp

        def looked_at(source: BinaryIO) -> Lines:
            check_file(source, form, catalogue=catalogue, caller=namespace)
            return survey(source, form, go_on=go_on).doubled_lines

        def rows(source: BinaryIO, doubled: Lines) -> Iterator[BatchRow | BadRow]:
            for row in read_rows(source, form, catalogue=catalogue, caller=namespace, doubled=doubled):
                go_on()
                yield row
            standing = self._accepted.one(namespace, batch.id)
            if standing is None or standing.ended is not None:
                # Another gateway has made it or given it up, and may remove what is written here.
                raise _GivenUp

        await self._gateway.calls.require_topics(namespace, batch_topic(namespace))
        with await asyncio.to_thread(self._files.open, namespace, about) as source:
            async with self._turns.turn(about.bytes):
                go_on()
                doubled = await asyncio.to_thread(looked_at, source)
                await self._jobs.submit(namespace, rows(source, doubled), wanted)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
