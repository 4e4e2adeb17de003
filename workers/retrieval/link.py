"""The I/O process's end of retrieval: starts its process when a set is first used, gives it lookups, outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, assert_never

import structlog

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import Retrieval
from guideway.workers.child import Child, child_process
from guideway.workers.messages import Broken, Ready, Stop
from guideway.workers.retrieval.messages import (
    FROM_RETRIEVAL,
    Found,
    FoundPassage,
    FromRetrieval,
    Lookup,
    NotFound,
    SetArtefact,
    StartRetrieval,
)
from guideway.workers.retrieval.settings import RetrievalSettings

log = structlog.get_logger(__name__)

PROGRAM: Final = (sys.executable, "-m", "guideway.workers.retrieval.process")
_ATTEMPTS: Final = 3
"""Deaths of the process after which a lookup that was there each time is answered."""
_REST_S: Final = 30.0
"""After so many deaths in a row it is left alone for so long; lookups are refused at once meanwhile."""


class _Ended(Exception):
    """The retrieval process ended while it had this lookup."""


class RetrievalLink:
    """`async with RetrievalLink(...) as link:` – the process is started by the first lookup or by `warm`.

    Its death is nobody else's: lookups are tried again, and refused once that has not helped.
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        model: Model,
        model_cache: str,
        *,
        silence_s: float = 300.0,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`program --fd N` speaks `retrieval/messages.py` on socket N; busy and silent for `silence_s`, it is ended."""
        self._start = StartRetrieval(settings=settings, model=model, model_cache=model_cache)
        self._silence_s = silence_s
        self._program = program
        self._waiting: dict[str, asyncio.Future[list[FoundPassage]]] = {}
        self._suspects = asyncio.Lock()
        """Held by the lookup that is tried again: of several that were there when the process ended, nobody knows
        whose doing it was, and tried one by one each answers for itself."""
        self._ids = itertools.count()
        self._running: asyncio.Task[None] | None = None
        self._child: asyncio.Future[Child]
        """Of the process that runs or is being started."""
        self._deaths = 0
        """In a row, without an answer between them."""
        self._rest_until = 0.0
        self._stopping = False
        self._heard_at = 0.0

    async def __aenter__(self) -> RetrievalLink:
        self._watch = asyncio.create_task(self._end_a_silent_process(), name="watch retrieval")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if self._running is not None and self._child.done() and not self._child.exception():
            self._child.result().send(Stop())
            await self._child.result().drain()
        for task in (self._watch, self._running):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def warm(self) -> None:
        """Have the process load its models, if it does not run."""
        if self._running is None or self._running.done():
            self._child = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run_process(self._child), name="run retrieval")

    async def look_up(self, wanted: Retrieval, artefacts: Sequence[SetArtefact]) -> list[FoundPassage]:
        """The passages for one request, best first. Raises Refusal, in the end retrieval_failed."""
        for attempt in range(_ATTEMPTS):
            async with self._suspects if attempt else contextlib.nullcontext():
                if time.monotonic() < self._rest_until:
                    break
                self.warm()
                with contextlib.suppress(_Ended):
                    return await self._look_up_once(wanted, artefacts)
        raise Refusal(
            FailureCode.RETRIEVAL_FAILED, "the retrieval process ends again and again: the worker's log says why"
        )

    async def _look_up_once(self, wanted: Retrieval, artefacts: Sequence[SetArtefact]) -> list[FoundPassage]:
        # Shielded: one request that is cancelled must not cancel what the others wait for.
        child = await asyncio.shield(self._child)
        id_ = str(next(self._ids))
        answer: asyncio.Future[list[FoundPassage]] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = answer
        if len(self._waiting) == 1:
            self._heard_at = time.monotonic()
        try:
            child.send(Lookup(id=id_, wanted=wanted, artefacts=list(artefacts)))
            return await answer
        finally:
            self._waiting.pop(id_, None)

    async def _run_process(self, started: asyncio.Future[Child]) -> None:
        try:
            async with child_process(self._program) as child:
                self._heard_at = time.monotonic()
                child.send(self._start)
                started.set_result(child)
                while (message := await child.receive(FROM_RETRIEVAL)) is not None:
                    self._hear(message)
        except OSError:
            log.exception("the retrieval process cannot be run")
        finally:
            if not self._stopping:
                self._count_death()
            if not started.done():
                started.set_exception(_Ended())
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(_Ended())
            # Looked at, for perhaps nobody waited for it.
            started.exception()

    def _count_death(self) -> None:
        self._deaths += 1
        log.warning("the retrieval process ended", lookups=len(self._waiting), in_a_row=self._deaths)
        if self._deaths >= _ATTEMPTS:
            self._deaths = 0
            self._rest_until = time.monotonic() + _REST_S

    def _hear(self, message: FromRetrieval) -> None:
        self._heard_at = time.monotonic()
        match message:
            case Ready():
                log.info("retrieval ready", embedding=message.fingerprint, load_s=round(message.load_s, 1))
            case Broken():
                log.error("retrieval cannot start", code=message.code.value, message=message.message)
                self._refuse_all(Refusal(message.code, message.message))
            case Found():
                self._deaths = 0
                if (answer := self._waiting.get(message.id)) and not answer.done():
                    answer.set_result(message.passages)
            case NotFound():
                self._deaths = 0
                if (answer := self._waiting.get(message.id)) and not answer.done():
                    answer.set_exception(Refusal(message.code, message.message))
            case _:
                assert_never(message)

    def _refuse_all(self, refusal: Refusal) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(refusal)

    async def _end_a_silent_process(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._silence_s / 4))
            silent_s = time.monotonic() - self._heard_at
            if self._waiting and silent_s > self._silence_s and self._child.done() and not self._child.exception():
                log.error("the retrieval process says nothing; it is ended", silent_s=round(silent_s))
                self._child.result().kill()
                self._heard_at = time.monotonic()
