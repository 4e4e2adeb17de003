"""A child process that answers questions: it is started, asked, watched and ended here."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from guideway.catalogue.artefacts.contents import as_refusal
from guideway.schemas.failures import Refusal
from guideway.workers.messages.every_child import Ready, Refused, Stop
from guideway.workers.processes.child import Child, child_process
from guideway.workers.processes.silence import Silence

Message = TypeVar("Message")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class ChildEnded(Exception):
    """The process ended, or could not be started, while it had this question; or nobody starts one any more."""


class ChildClient(Generic[Message, Answer]):
    """Owner of one process at a time, of its socket, and of the questions that it has not answered.

    Message: what the process tells. Answer: what a question is answered with. Whoever calls `live` decides when there
    is a process, and how often it is started anew.
    """

    def __init__(
        self,
        name: str,
        program: Sequence[str],
        start: msgspec.Struct,
        decoder: msgspec.msgpack.Decoder[Message],
        hear: Callable[[Message], None],
        *,
        silence_s: float,
        start_timeout_s: float,
    ) -> None:
        """`program --fd N` is told `start` first, on socket N. hear: is given each of its messages.

        A process is ended if it says nothing for `silence_s` seconds while somebody waits for it, or if it is not ready
        `start_timeout_s` seconds after its start.
        """
        self._name = name
        self._program = program
        self._start = start
        self._decoder = decoder
        self._hear = hear
        self._silence = Silence(busy_s=silence_s, start_s=start_timeout_s)
        self._child: Child | None = None
        self._unsent: dict[str, msgspec.Struct] = {}
        """Asked before the process was there, by id."""
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._ids = itertools.count()
        self._keeper: asyncio.Task[None] | None = None
        self.closed = False
        """Set by `close`: no process is started from then on."""
        self.ready = asyncio.Event()
        """Set from the process's `Ready` until it ends. Set for good by `close`, so that nobody waits for ever."""

    @property
    def waiting(self) -> int:
        """Questions without an answer."""
        return len(self._waiting)

    def start(self, keep: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Have `keep` call `live`, once or more often, in a task of its own; not if one does, or once closed."""
        if not self.closed and (self._keeper is None or self._keeper.done()):
            self._keeper = asyncio.create_task(keep(), name=f"keep {self._name}")

    async def close(self) -> None:
        """Tell the process to end, and wait until it has; no other is started from now on.

        One that does not end by itself is killed. Those who wait get ChildEnded.
        """
        self.closed = True
        if self._child is not None:
            self._child.send(Stop())
            await self._child.drain()
        await _cancelled(self._keeper)
        self.ready.set()

    async def live(self) -> bool:
        """One life of the process, until it has ended; returns whether it became ready.

        Raises: OSError if it cannot be started; whatever `hear` and the decoder raise. Those who wait get ChildEnded
        in any case.
        """
        was_ready = False
        try:
            async with child_process(self._program) as child:
                self._silence.heard(_now())
                self._child = child
                for message in (self._start, *self._unsent.values()):
                    child.send(message)
                self._unsent.clear()
                watch = asyncio.create_task(self._end_if_silent(child), name=f"watch {self._name}")
                try:
                    while (heard := await child.receive(self._decoder)) is not None:
                        self._silence.heard(_now())
                        self._hear(heard)
                        if isinstance(heard, Ready):
                            self.ready.set()
                finally:
                    was_ready = self.ready.is_set()
                    self.ready.clear()
                    self._child = None
                    watch.cancel()
        finally:
            self._unsent.clear()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ChildEnded())
        return was_ready

    async def ask(
        self, question: Callable[[str], msgspec.Struct], *, withdrawal: Callable[[str], msgspec.Struct] | None = None
    ) -> Answer:
        """The answer to `question(id)`, which the process that lives is sent, or else the next one.

        withdrawal: what to send of this id if nobody waits any more. Raises ChildEnded; Refusal, where it is refused.
        """
        if self.closed:
            raise ChildEnded
        id_ = str(next(self._ids))
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._count()
        self._waiting[id_] = answer
        if self._child is None:
            self._unsent[id_] = question(id_)
        else:
            self._child.send(question(id_))
        try:
            return await answer
        except asyncio.CancelledError:
            if withdrawal is not None and self._child is not None and answer.cancelled():
                self._child.send(withdrawal(id_))
            raise
        finally:
            if len(self._waiting) == 1:
                self._count()
            del self._waiting[id_]
            self._unsent.pop(id_, None)

    def answer(self, id_: str, answer: Answer | Refusal) -> None:
        """Give whoever waits for this id the answer; where nobody does, nothing."""
        waiting = self._waiting.get(id_)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Refusal):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def refuse(self, refused: Refused) -> None:
        """Give whoever waits for the question that the process refuses its reason; where nobody does, nothing."""
        self.answer(refused.id, as_refusal(refused.code, refused.message, refused.altered))

    def refuse_all(self, refusal: Refusal) -> None:
        """Give this to all who wait."""
        for id_ in self._waiting:
            self.answer(id_, refusal)

    def _count(self) -> None:
        self._silence.count(_now(), owing=bool(self._waiting) or not self.ready.is_set())

    async def _end_if_silent(self, child: Child) -> None:
        while True:
            await asyncio.sleep(self._silence.look_s)
            self._count()
            if self._silence.is_too_long(starting=not self.ready.is_set()):
                silent_s = round(self._silence.silent_s)
                log.error("a process says nothing; it is ended", process=self._name, silent_s=silent_s)
                child.kill()
                return


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _now() -> float:
    """Seconds of the event loop's clock, which only goes forward and stands while the machine is suspended."""
    return asyncio.get_running_loop().time()
