"""The client of the retrieval process: it starts the process when a set is first used, and sends it lookups."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, assert_never

import structlog

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import Retrieval
from guideway.workers.messages.every_child import Broken, Ready, Refused
from guideway.workers.messages.from_retrieval import FROM_RETRIEVAL, Embedded, Found, FoundPassage, FromRetrieval
from guideway.workers.messages.to_retrieval import Embed, Lookup, SetArtefact, StartRetrieval
from guideway.workers.processes.child_client import ChildClient, ChildEnded
from guideway.workers.retrieval.settings import RetrievalSettings

log = structlog.get_logger(__name__)

PROGRAM: Final = (sys.executable, "-m", "guideway.workers.retrieval.process")
_ATTEMPTS: Final = 3
"""A lookup is refused after so many deaths of the process, if it was in the process each time."""
_REST_S: Final = 30.0
"""Seconds without a new process after `_ATTEMPTS` deaths in a row. Lookups are refused at once meanwhile."""


class RetrievalClient:
    """`async with RetrievalClient(...) as link:` – the first lookup or `warm` starts the process.

    If the process dies, nothing else ends. Its lookups are tried again, and refused after the third death.
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        model: Model,
        model_cache: str,
        *,
        silence_s: float = 300.0,
        start_timeout_s: float = 600.0,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """program: `program --fd N` speaks `workers/messages/` on socket N.

        silence_s, start_timeout_s: the process is ended if it is busy and sends nothing for so many seconds, or if it
        is not ready so many seconds after its start.
        """
        self._process: ChildClient[FromRetrieval, list[FoundPassage] | Embedded] = ChildClient(
            "retrieval",
            program,
            StartRetrieval(settings=settings, model=model, model_cache=model_cache),
            FROM_RETRIEVAL,
            self._hear,
            silence_s=silence_s,
            start_timeout_s=start_timeout_s,
        )
        self._suspects = asyncio.Lock()
        """Held by a lookup that is tried again. Several may have been in the process when it died, and nobody knows
        which of them killed it; so they are tried one by one."""
        self._deaths = 0
        """Deaths of the process in a row, without an answer between them."""
        self._rest_until = 0.0

    async def __aenter__(self) -> RetrievalClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._process.close()

    def warm(self) -> None:
        """Start the process if it does not run; it loads its models."""
        self._process.start(self._run_process)

    async def look_up(self, wanted: Retrieval, artefacts: Sequence[SetArtefact]) -> list[FoundPassage]:
        """The passages for one request, best first.

        Raises: Refusal if retrieval refuses the lookup; Refusal `retrieval_failed` if the process ends each time, or if
        this client is closed or is closed meanwhile.
        """
        found = await self._ask(lambda id_: Lookup(id=id_, wanted=wanted, artefacts=list(artefacts)))
        assert isinstance(found, list), "a lookup ends in `Found`"
        return found

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """The vectors of the texts, by the embedding model of this worker. Raises as `look_up` does."""
        found = await self._ask(lambda id_: Embed(id=id_, texts=list(texts)))
        assert isinstance(found, Embedded), "an embedding ends in `Embedded`"
        return found

    async def _ask(self, question: Callable[[str], Lookup | Embed]) -> list[FoundPassage] | Embedded:
        for attempt in range(_ATTEMPTS):
            async with self._suspects if attempt else contextlib.nullcontext():
                if asyncio.get_running_loop().time() < self._rest_until:
                    break
                self.warm()
                with contextlib.suppress(ChildEnded):
                    return await self._process.ask(question)
        if self._process.closed:
            raise Refusal(
                FailureCode.RETRIEVAL_FAILED, "retrieval is closed because its worker ends: send the request again"
            )
        raise Refusal(
            FailureCode.RETRIEVAL_FAILED, "the retrieval process ends again and again: the worker's log says why"
        )

    async def _run_process(self) -> None:
        try:
            await self._process.live()
        except Exception:
            log.exception("the retrieval process cannot be run")
        finally:
            if not self._process.closed:
                self._count_death()

    def _count_death(self) -> None:
        self._deaths += 1
        log.warning("the retrieval process ended", lookups=self._process.waiting, in_a_row=self._deaths)
        if self._deaths >= _ATTEMPTS:
            self._deaths = 0
            self._rest_until = asyncio.get_running_loop().time() + _REST_S

    def _hear(self, message: FromRetrieval) -> None:
        match message:
            case Ready():
                log.info("retrieval ready", embedding=message.fingerprint, load_s=round(message.load_s, 1))
            case Broken():
                log.error("retrieval cannot start", code=message.code.value, message=message.message)
                self._process.refuse_all(Refusal(message.code, message.message))
            case Found():
                self._deaths = 0
                self._process.answer(message.id, message.passages)
            case Embedded():
                self._deaths = 0
                self._process.answer(message.id, message)
            case Refused():
                self._deaths = 0
                self._process.refuse(message)
            case _:
                assert_never(message)
