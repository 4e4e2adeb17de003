"""One job on this machine: `guideway studio run` as a process of its own, its events as they are written, its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from guideway.catalogue.documents.yaml_text import as_yaml
from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.jobs.messages import Job
from guideway.training.runs.events import RunEvent
from guideway.training.runs.folder import RunFolder, write_whole

log = structlog.get_logger(__name__)

_LOOK_S: Final = 0.25
_CRASHES: Final = 3
"""Of its process, after which a job has failed: it goes on from its checkpoint, and would die there again."""

Tell = Callable[[int, RunEvent], Awaitable[None]]
"""Gets each event of the run with its number, from 1 on."""


class JobRun:
    """`carry_out` once. Where it is cancelled, training ends after its present step, with a checkpoint."""

    def __init__(
        self, job: Job, folder: Path, command: Sequence[str], *, device: str, patience_s: Callable[[], float]
    ) -> None:
        """folder: of this job, on storage that all trainers share. command: how `guideway` is run.

        patience_s: how long its process is waited for once it is asked to end.
        """
        self.run = RunFolder(folder / "run")
        self._job = job
        self._folder = folder
        self._command = command
        self._device = device
        self._patience_s = patience_s
        self._told = 0

    async def carry_out(self, tell: Tell) -> Refusal | None:
        """Train, and publish where that is asked; returns why it was not published, if it was asked and was not.

        Raises: Refusal for a run that was refused or whose process crashed time and again.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            task = msgspec.to_builtins(self._job.task)
            write_whole(self._folder / "task.yaml", as_yaml(task).encode())
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the job's folder {self._folder} cannot be written ({error.strerror}): name another with --jobs",
            ) from None
        task_file, out = str(self._folder / "task.yaml"), ("--out", str(self.run.path), "--json")
        with (self._folder / ".lock").open("ab") as lock:
            await self._own(lock.fileno())
            arguments = ("studio", "run", task_file, *out, "--device", self._device, "--with-parent")
            for _ in range(_CRASHES):
                code, said = await self._child(arguments, lock.fileno(), tell)
                if code in {0, 1, 2}:
                    break
                log.warning("a job's process ended; the job goes on from its checkpoint", job=self._job.id, code=code)
            if code:
                raise _refusal(code, said)
            if not self._job.publish:
                return None
            code, said = await self._child(("studio", "publish", task_file, *out), lock.fileno(), tell)
            return _refusal(code, said) if code else None

    async def _own(self, lock: int) -> None:
        """Wait until nobody else is at this job: a trainer that was killed leaves a process which ends its step."""
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                await asyncio.sleep(_LOOK_S)

    async def _child(self, arguments: Sequence[str], lock: int, tell: Tell) -> tuple[int, bytes]:
        """Exit code and standard output. The process holds the job's lock as long as it lives."""
        child = await asyncio.create_subprocess_exec(
            *self._command, *arguments, stdout=asyncio.subprocess.PIPE, pass_fds=(lock,), process_group=0
        )
        assert child.stdout is not None
        reading = asyncio.create_task(child.stdout.read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_LOOK_S)
                await self._tell_new(tell)
            code = await child.wait()
            await self._tell_new(tell)
            return code, reading.result()
        finally:
            if child.returncode is None:
                await _end(child, self._patience_s())
            reading.cancel()

    async def _tell_new(self, tell: Tell) -> None:
        for number, event in enumerate(self.run.events(), start=1):
            if number > self._told:
                self._told = number
                await tell(number, event)


async def _end(child: asyncio.subprocess.Process, patience_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(child.wait(), patience_s)
    except TimeoutError:
        child.kill()
        await child.wait()


def _refusal(code: int, said: bytes) -> Refusal:
    """What the command said on its last line, where it refused."""
    last: Any = None
    with contextlib.suppress(msgspec.DecodeError, IndexError):
        last = msgspec.json.decode(said.strip().splitlines()[-1])
    if isinstance(last, dict) and last.get("code") in {*FailureCode}:
        return Refusal(FailureCode(last["code"]), str(last.get("message", "")))
    return Refusal(
        FailureCode.INTERNAL_ERROR,
        f"the job's process ended with exit code {code}: look into the trainer's log, and submit it again",
    )
