"""A child process that answers questions: started, watched, ended, and outlived by whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from guideway.schemas.failures import Refusal
from guideway.workers.messages.every_child import Ready, Stop
from guideway.workers.processes.child import Child, child_process
from guideway.workers.processes.silence import Silence

Message = TypeVar("Message")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class ChildEnded(Exception):
    """The process ended, or could not be started, while it had this question."""


class ChildClient(Generic[Message, Answer]):
    """Owner of one process at a time, of its socket, and of the questions that it has not answered.

    When a process is to live, and how often, is for whoever calls `live`.
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

        A process that says nothing for `silence_s` while somebody waits for it is ended, and one that is not ready
        `start_timeout_s` after its start.
        """
        self._name = name
        self._program = program
        self._start = start
        self._decoder = decoder
        self._hear = hear
        self._silence = Silence(busy_s=silence_s, start_s=start_timeout_s)
        self._child: Child | None = None
        self._unsent: list[msgspec.Struct] = []
        """Asked before the process was there."""
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._ids = itertools.count()
        self.ready = asyncio.Event()
        """Set from the process's `Ready` until it ends."""

    @property
    def waiting(self) -> int:
        """Questions without an answer."""
        return len(self._waiting)

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
                for message in (self._start, *self._unsent):
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
        id_ = str(next(self._ids))
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._count()
        self._waiting[id_] = answer
        self._send(question(id_))
        try:
            return await answer
        except asyncio.CancelledError:
            if withdrawal is not None and self._child is not None and answer.cancelled():
                self._child.send(withdrawal(id_))
            raise
        finally:
            self._count()
            del self._waiting[id_]

    def answer(self, id_: str, answer: Answer | Refusal) -> None:
        """Give whoever waits for this id the answer; where nobody does, nothing."""
        waiting = self._waiting.get(id_)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Refusal):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def refuse_all(self, refusal: Refusal) -> None:
        """Give this to all who wait."""
        for id_ in self._waiting:
            self.answer(id_, refusal)

    async def stop(self) -> None:
        """Tell the process, if one lives, to end."""
        if self._child is not None:
            self._child.send(Stop())
            await self._child.drain()

    def _send(self, message: msgspec.Struct) -> None:
        if self._child is None:
            self._unsent.append(message)
        else:
            self._child.send(message)

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


async def cancelled(*tasks: asyncio.Task[Any] | None) -> None:
    """End tasks, one after the other, and wait until they have ended."""
    for task in tasks:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _now() -> float:
    """Seconds of the event loop's clock, which only goes forward and stands while the machine is suspended."""
    return asyncio.get_running_loop().time()
