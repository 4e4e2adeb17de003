"""The I/O process's end of the engine: starts the engine process, gives it requests, and outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, assert_never

import structlog

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.names import Lane
from guideway.schemas.request import Request
from guideway.workers.child import Child, child_process
from guideway.workers.messages import (
    FROM_ENGINE,
    Admit,
    Artefact,
    BatchReport,
    Broken,
    Cancel,
    EngineSettings,
    Finished,
    FromEngine,
    Progress,
    Ready,
    Refused,
    Start,
    Stop,
)
from guideway.workers.quarantine import Quarantine

log = structlog.get_logger(__name__)

_START_ATTEMPTS: Final = 5
"""Ends in a row before the engine was ready; then the worker ends as well, and says why."""


class EngineDied(Exception):
    """The engine process ended while it had this request."""


class Poison(Refusal):
    """The engine process died of this request each time it was tried."""


class EngineLink:
    """`async with EngineLink(...) as link:` – on entry the model is loaded. Owns the engine process and its socket."""

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        *,
        attempts: int = 3,
        start_timeout_s: float = 600.0,
        silence_s: float = 300.0,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        program: Sequence[str] = (sys.executable, "-m", "guideway.workers.engine_process"),
    ) -> None:
        """`program --fd N` speaks `workers/messages.py` on socket N."""
        self._start = Start(model=model, settings=settings)
        self._attempts = attempts
        self._start_timeout_s = start_timeout_s
        self._silence_s = silence_s
        self._on_batch = on_batch
        self._program = program
        self._waiting: dict[str, asyncio.Future[Finished]] = {}
        self._ids = itertools.count()
        self._up = asyncio.Event()
        self._heard_at = time.monotonic()
        self._quarantine = Quarantine()
        self._child: Child | None = None
        self._was_ready = False
        self.fingerprint = ""
        """Of the loaded model."""
        self.progress: Progress | None = None
        """The engine's last word on how it is doing."""
        self.broken: asyncio.Future[None]
        """Raises Refusal once the engine cannot be started any more."""

    async def __aenter__(self) -> EngineLink:
        self.broken = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep_running(), name="keep the engine running")
        self._watch = asyncio.create_task(self._end_a_silent_engine(), name="watch the engine")
        started = asyncio.create_task(self._up.wait())
        either: list[asyncio.Future[Any]] = [started, self.broken]
        await asyncio.wait(either, timeout=self._start_timeout_s, return_when="FIRST_COMPLETED")
        if not self._up.is_set():
            started.cancel()
            await self.__aexit__(None, None, None)
            if self.broken.done():
                self.broken.result()
            raise Refusal(FailureCode.ENGINE_FAILED, f"the engine did not start within {self._start_timeout_s:.0f} s")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.send(Stop())
            await self._child.drain()
        for task in (self._watch, self._keeper):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if not self.broken.done():
            self.broken.cancel()

    async def run(self, request: Request, artefacts: Sequence[Artefact], lane: Lane = "interactive") -> Finished:
        """Run one request. Raises Refusal; Poison(engine_failed) once the engine has died of it `attempts` times.

        Whoever was in the engine when it died is suspect; who is suspected for the last time runs alone.
        """
        for attempt in range(self._attempts):
            alone = 0 < attempt == self._attempts - 1
            async with self._quarantine.entered(suspect=attempt > 0, last_chance=alone):
                try:
                    return await self._run_once(request, artefacts, lane)
                except EngineDied:
                    log.warning("request was in an engine that died", request=request.id, attempt=attempt + 1)
        raise Poison(
            FailureCode.ENGINE_FAILED,
            f"the engine died {self._attempts} times while it ran this request: change its text, schema or guidance",
        )

    async def _run_once(self, request: Request, artefacts: Sequence[Artefact], lane: Lane) -> Finished:
        await self._up.wait()
        child = self._child
        if child is None:
            raise EngineDied
        known_as = str(next(self._ids))
        answer: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._waiting[known_as] = answer
        try:
            child.send(Admit(id=known_as, request=request, artefacts=list(artefacts), lane=lane))
            return await answer
        except asyncio.CancelledError:
            child.send(Cancel(id=known_as))
            raise
        finally:
            self._waiting.pop(known_as, None)

    # The process -----------------------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        pause_s, failed_starts = 0.0, 0
        while failed_starts < _START_ATTEMPTS:
            await asyncio.sleep(pause_s)
            began, self._was_ready = time.monotonic(), False
            try:
                await self._run_process()
            except Exception as error:
                log.exception("the engine process cannot be run")
                self._break(f"the engine process cannot be run ({type(error).__name__}): see the worker's log")
            if self.broken.done():
                return
            failed_starts = 0 if self._was_ready else failed_starts + 1
            # A death now and then is mended at once; one after the other leaves the machine some rest.
            pause_s = 0.0 if time.monotonic() - began > 60 else min(15.0, max(0.5, 2 * pause_s))
            log.warning("the engine process ended; it is started anew", requests=len(self._waiting), pause_s=pause_s)
        self._break(f"the engine process ended {failed_starts} times before it was ready: see the worker's log")

    def _break(self, message: str) -> None:
        if not self.broken.done():
            self.broken.set_exception(Refusal(FailureCode.ENGINE_FAILED, message))

    async def _run_process(self) -> None:
        try:
            async with child_process(self._program) as child:
                self._child = child
                self._heard_at = time.monotonic()
                child.send(self._start)
                try:
                    while (message := await child.receive(FROM_ENGINE)) is not None:
                        self._hear(message)
                finally:
                    self._up.clear()
                    self._child = None
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(EngineDied())

    def _hear(self, message: FromEngine) -> None:
        self._heard_at = time.monotonic()
        match message:
            case Ready():
                log.info("engine ready", fingerprint=message.fingerprint, load_s=round(message.load_s, 1))
                self.fingerprint = message.fingerprint
                self._was_ready = True
                self._up.set()
            case Broken():
                if not self.broken.done():
                    self.broken.set_exception(Refusal(message.code, message.message))
            case Finished():
                if (answer := self._waiting.get(message.id)) and not answer.done():
                    answer.set_result(message)
            case Refused():
                if (answer := self._waiting.get(message.id)) and not answer.done():
                    answer.set_exception(Refusal(message.code, message.message))
            case BatchReport():
                self._on_batch(message)
            case Progress():
                self.progress = message
            case _:
                assert_never(message)

    async def _end_a_silent_engine(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._silence_s / 4))
            silent_s = time.monotonic() - self._heard_at
            busy_too_long = self._up.is_set() and self._waiting and silent_s > self._silence_s
            loading_too_long = not self._up.is_set() and self._child is not None and silent_s > self._start_timeout_s
            if busy_too_long or loading_too_long:
                log.error("the engine says nothing; it is ended", silent_s=round(silent_s))
                if self._child is not None:
                    self._child.kill()
                self._heard_at = time.monotonic()
