"""The engine, as the I/O process sees it: starts the engine process, gives it requests, starts it anew when it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, assert_never

import structlog

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.names.topics import Lane
from guideway.schemas.request import Request
from guideway.workers.messages.every_child import Broken, Ready, Refused
from guideway.workers.messages.from_engine import FROM_ENGINE, BatchReport, Finished, FromEngine, Pieces, Progress
from guideway.workers.messages.to_engine import Admit, Artefact, Cancel, EngineSettings, Start
from guideway.workers.partials import Telling
from guideway.workers.processes.child_client import ChildClient, ChildEnded
from guideway.workers.quarantine import Quarantine

log = structlog.get_logger(__name__)

_START_ATTEMPTS: Final = 5
"""So often in a row the process may end before it is ready. Then the worker ends as well, and says why."""


class Poison(Refusal):
    """The engine process died of this request each time it was tried."""


class EngineClient:
    """`async with EngineClient(...) as engine:` loads the model. Owner of the engine process and its socket."""

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
        """attempts: deaths of the engine after which a request that was in it each time is refused.

        start_timeout_s, silence_s: seconds in which the process must be ready, and in which it must say something while
        it has requests. on_batch: is given each new micro-batch. program: `program --fd N` speaks `workers/messages/`
        on socket N.
        """
        self._attempts = attempts
        self._start_timeout_s = start_timeout_s
        self._on_batch = on_batch
        self._engine: ChildClient[FromEngine, Finished] = ChildClient(
            "engine",
            program,
            Start(model=model, settings=settings),
            FROM_ENGINE,
            self._hear,
            silence_s=silence_s,
            start_timeout_s=start_timeout_s,
        )
        self._quarantine = Quarantine()
        self._tellings: dict[str, Telling] = {}
        """Who is given the pieces of a request, by its attempt's id."""
        self.fingerprint = ""
        """Of the loaded model."""
        self.former_fingerprint = ""
        """As it was computed before decision 15."""
        self.progress: Progress | None = None
        """The engine's last word on how it is doing."""
        self.broken: asyncio.Future[None]
        """Raises Refusal when the engine cannot be started any more."""

    async def __aenter__(self) -> EngineClient:
        self.broken = asyncio.get_running_loop().create_future()
        self._engine.start(self._keep_running)
        started = asyncio.create_task(self._engine.ready.wait())
        either: list[asyncio.Future[Any]] = [started, self.broken]
        try:
            await asyncio.wait(either, timeout=self._start_timeout_s, return_when="FIRST_COMPLETED")
        except asyncio.CancelledError:
            await self._end()
            raise
        finally:
            started.cancel()
        if not self._engine.ready.is_set():
            await self._end()
            if self.broken.done() and not self.broken.cancelled():
                self.broken.result()
            raise Refusal(
                FailureCode.ENGINE_FAILED,
                f"the engine did not start within {self._start_timeout_s:.0f} s: see the worker's log",
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        await self._engine.close()
        if not self.broken.done():
            self.broken.cancel()

    async def run(
        self,
        request: Request,
        artefacts: Sequence[Artefact],
        lane: Lane = "interactive",
        *,
        biases: Mapping[str, float] | None = None,
        partings: bool = False,
        weight: float = 1.0,
        most_rows: int | None = None,
        telling: Telling | None = None,
    ) -> Finished:
        """Run one request; what is not said here is that of `messages.Admit`. telling: is given its pieces.

        Raises: Refusal if the engine refuses it, or if this client is closed or is closed meanwhile;
        Poison(engine_failed) if the engine has died `attempts` times while it ran this request.

        A request that was in the engine when it died is a suspect. On its last attempt a suspect runs alone.
        """

        tellings: list[str] = []

        def admit(id_: str) -> Admit:
            if telling is not None:
                telling.begin()
                self._tellings[id_] = telling
                tellings.append(id_)
            return Admit(
                id=id_,
                request=request,
                artefacts=list(artefacts),
                lane=lane,
                biases=dict(biases or {}),
                partings=partings,
                weight=weight,
                most_rows=most_rows,
                partial=telling is not None,
            )

        for attempt in range(self._attempts):
            alone = 0 < attempt == self._attempts - 1
            async with self._quarantine.entered(suspect=attempt > 0, last_chance=alone):
                try:
                    return await self._run_once(admit)
                except ChildEnded:
                    self._require_open()
                    log.warning("request was in an engine that died", request=request.id, attempt=attempt + 1)
                finally:
                    for id_ in tellings:
                        self._tellings.pop(id_, None)
        raise Poison(
            FailureCode.ENGINE_FAILED,
            f"the engine died {self._attempts} times while it ran this request: change its text, schema or guidance; "
            "the worker's log says how it died",
        )

    async def _run_once(self, admit: Callable[[str], Admit]) -> Finished:
        # Again and again: the engine may have ended after it became ready and before it was our turn.
        while not self._engine.ready.is_set():
            await self._engine.ready.wait()
        self._require_open()
        return await self._engine.ask(admit, withdrawal=lambda id_: Cancel(id=id_))

    def _require_open(self) -> None:
        if self._engine.closed:
            raise Refusal(
                FailureCode.ENGINE_FAILED, "the engine is closed because its worker ends: send the request again"
            )

    # The process -----------------------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        pause_s, failed_starts = 0.0, 0
        now = asyncio.get_running_loop().time
        while failed_starts < _START_ATTEMPTS:
            await asyncio.sleep(pause_s)
            began, was_ready = now(), False
            try:
                was_ready = await self._engine.live()
            except Exception as error:
                log.exception("the engine process cannot be run")
                self._break(f"the engine process cannot be run ({type(error).__name__}): see the worker's log")
            if self.broken.done() or self._engine.closed:
                return
            failed_starts = 0 if was_ready else failed_starts + 1
            # After a rare death it is started at once. Where deaths follow each other, a pause comes before each start.
            pause_s = 0.0 if now() - began > 60 else min(15.0, max(0.5, 2 * pause_s))
            waiting = self._engine.waiting
            log.warning("the engine process ended; it is started anew", requests=waiting, pause_s=pause_s)
        self._break(f"the engine process ended {failed_starts} times before it was ready: see the worker's log")

    def _break(self, message: str) -> None:
        if not self.broken.done():
            self.broken.set_exception(Refusal(FailureCode.ENGINE_FAILED, message))

    def _hear(self, message: FromEngine) -> None:
        match message:
            case Ready():
                log.info("engine ready", fingerprint=message.fingerprint, load_s=round(message.load_s, 1))
                self.fingerprint, self.former_fingerprint = message.fingerprint, message.former_fingerprint
            case Broken():
                if not self.broken.done():
                    self.broken.set_exception(Refusal(message.code, message.message))
            case Finished():
                self._engine.answer(message.id, message)
            case Refused():
                self._engine.refuse(message)
            case BatchReport():
                self._on_batch(message)
            case Progress():
                self.progress = message
            case Pieces():
                for piece in message.pieces:
                    if (telling := self._tellings.get(piece.id)) is not None:
                        telling.piece(piece.sample, piece.text)
            case _:
                assert_never(message)
