"""Runs one job on this machine, in a process of its own: passes on its events, and returns its result."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.wire import Undecodable
from guideway.training.jobs.messages import Job
from guideway.training.jobs.process_messages import ORDER, RESULT, CarryOut, Done, NotPublished, Refused, Result
from guideway.training.runs.events import RunEvent
from guideway.training.runs.folder import RunFolder

log = structlog.get_logger(__name__)

_LOOK_S: Final = 0.25
_CRASHES: Final = 3
"""A job fails after so many crashes of its process: it resumes from its checkpoint, and would crash there again."""

Tell = Callable[[int, RunEvent], Awaitable[None]]
"""Called with each event of the run and its number, from 1 on."""


class JobRun:
    """One job. Call `carry_out` once. If it is cancelled, training ends after the current step, with a checkpoint."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        command: Sequence[str],
        *,
        device: str,
        patience_s: Callable[[], float],
        within: Path | None = None,
    ) -> None:
        """folder: of this job, on storage that all trainers share. command: starts its process; see `process_messages`.

        patience_s: returns how many seconds the process has to end after SIGTERM. within: the folder in which its files
        must lie; None: they may be anywhere.
        """
        self.run = RunFolder(folder / "run")
        self._job = job
        self._folder = folder
        self._command = command
        self._order = CarryOut(
            task=job.task,
            folder=str(self.run.path),
            device=device,
            publish=job.publish,
            within="" if within is None else str(within),
        )
        self._patience_s = patience_s
        self._told = 0

    async def carry_out(self, tell: Tell) -> Refusal | None:
        """Train, and publish if the job says so. Returns the reason if it should have been published and was not.

        Raises: Refusal if the run was refused, if its process crashed each time, or if its folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("ab")
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the job's folder {self._folder} cannot be written ({error.strerror}): name another with --jobs",
            ) from None
        with lock:
            await self._own(lock.fileno())
            for _ in range(_CRASHES):
                code, said = await self._child(lock.fileno(), tell)
                if code == 0:
                    break
                log.warning("a job's process ended; the job goes on from its checkpoint", job=self._job.id, code=code)
        match _result(code, said):
            case Done():
                return None
            case NotPublished(code=why, message=message):
                return Refusal(why, message)
            case Refused(code=why, message=message):
                raise Refusal(why, message)

    async def _own(self, lock: int) -> None:
        """Lock the job. If a trainer was killed, its process may still finish a step; wait until it has ended."""
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                await asyncio.sleep(_LOOK_S)

    async def _child(self, lock: int, tell: Tell) -> tuple[int, bytes]:
        """(exit code, standard output) of the process. The process holds the job's lock while it lives."""
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, pass_fds=(lock,), process_group=0
        )
        talking = asyncio.create_task(child.communicate(ORDER.encode(self._order)))
        try:
            while not talking.done():
                await asyncio.wait({talking}, timeout=_LOOK_S)
                await self._tell_new(tell)
            said, _ = talking.result()
            await self._tell_new(tell)
            return await child.wait(), said
        finally:
            if child.returncode is None:
                await _end(child, self._patience_s())
            talking.cancel()

    async def _tell_new(self, tell: Tell) -> None:
        for number, event in enumerate(self.run.events(), start=1):
            if number > self._told:
                self._told = number
                await tell(number, event)


async def _end(child: asyncio.subprocess.Process, patience_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(patience_s):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def _result(code: int, said: bytes) -> Result:
    """The result that the process wrote, or a Refused if it ended without one."""
    try:
        return RESULT.decode(said)
    except Undecodable:
        return Refused(
            code=FailureCode.INTERNAL_ERROR,
            message=f"the job's process ended with exit code {code}: look into the trainer's log, and submit it again",
        )
