"""The folder of one run: its task, its events and its results. Only the process that carries out the run writes it.

run.json                     the task and where it came from
rows.jsonl                   which rows, where they are archived: not what stands in them
events.jsonl                 what happened, see events.py
SIZE/METHOD/checkpoint.safetensors
SIZE/METHOD/artefact/        adapter_config.json and adapter_model.safetensors, once the method has ended
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import SetRef
from guideway.training.data.archived import Frozen, KeptRow
from guideway.training.runs.events import EVENT, RunEvent, RunStarted
from guideway.training.runs.task import Task

CHECKPOINT: Final = "checkpoint.safetensors"
ARTEFACT: Final = "artefact"
ROWS: Final = "rows.jsonl"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """run.json."""

    id: str
    task: Task
    folder: str
    """Absolute path; the task's relative paths begin here."""
    instruction: str
    """The endpoint's instruction: the task's, or the system message that all rows share."""
    data_digest: str
    """`sha256:` and 64 hex digits of the training and validation rows, in any order."""
    eval_digest: str
    """The same of the rows to report on."""
    code_version: str
    archived: Frozen | None = None
    """What it took of an archive; None: the examples are files."""

    @property
    def is_of_known_answers(self) -> bool:
        """Whether the comparison uses right answers, as people gave them, and not those that another model gave."""
        return self.archived is None or self.archived.known_answers


class RunFolder:
    """Reads and writes the folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "run.json").is_file()

    def create(self, run: Run, rows: Sequence[KeptRow] = ()) -> None:
        """Write run.json in one step, and before it which rows it has. Raises: Refusal `invalid_setting` if the folder
        cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if rows:
                write_whole(self.path / ROWS, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            write_whole(self.path / "run.json", msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def run(self) -> Run:
        """The run of this folder. Raises: Refusal `invalid_setting` if there is none."""
        try:
            return msgspec.json.decode((self.path / "run.json").read_bytes(), type=Run)
        except (OSError, msgspec.DecodeError) as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{self.path} holds no run ({error}): name the folder that `guideway studio run` wrote",
            ) from None

    def rows(self) -> list[KeptRow]:
        """The rows of an archive that the run began with, in order. Raises: Refusal `invalid_setting` without them."""
        try:
            lines = (self.path / ROWS).read_bytes().splitlines()
            return [msgspec.json.decode(line, type=KeptRow) for line in lines]
        except (OSError, msgspec.DecodeError) as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{self.path / ROWS} cannot be read ({error}), and the run does not go on without it: begin again in "
                "another folder with --out",
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A lock on this run, on this machine. Raises: Refusal `invalid_setting` if another process holds it."""
        with locked(self.path / ".lock", f"another process carries out the run in {self.path}"):
            yield

    @property
    def sets(self) -> list[SetRef]:
        """The versions of the retrieval sets that the run began with."""
        return next((event.sets for event in self.events() if isinstance(event, RunStarted)), [])

    def method(self, size: str, method: str) -> Path:
        """The folder of one method for one model size."""
        return self.path / size / method

    def artefact(self, size: str, method: str) -> Path:
        """The folder of the method's artefact."""
        return self.method(size, method) / ARTEFACT

    def checkpoint(self, size: str, method: str) -> Path:
        """The file of the method's checkpoint."""
        return self.method(size, method) / CHECKPOINT

    def append(self, event: RunEvent) -> None:
        """Add an event. It survives the end of this process at once, and a crash of the machine after a while.

        Raises: Refusal `invalid_setting` if the folder cannot be written.
        """
        try:
            with (self.path / "events.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(event) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def events(self) -> Iterator[RunEvent]:
        """All events so far, oldest first, without a line that the end of a process has cut off."""
        file = self.path / "events.jsonl"
        if file.is_file():
            with file.open("rb") as lines:
                for line in lines:
                    try:
                        yield EVENT.decode(line)
                    except msgspec.DecodeError:
                        continue

    def _unwritable(self, error: OSError) -> Refusal:
        return Refusal(
            FailureCode.INVALID_SETTING,
            f"the run's folder {self.path} cannot be written ({error.strerror}): free some space, or name another with "
            "--out",
        )


@contextlib.contextmanager
def locked(file: Path, otherwise: str) -> Iterator[None]:
    """A lock on `file`, on this machine. otherwise: the message if another process holds it.

    Raises: Refusal `invalid_setting` if another process holds it, or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(FailureCode.INVALID_SETTING, f"{otherwise}: wait for it, or end it") from None
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{file} cannot be written ({error.strerror}): make its folder writable"
            ) from None
        yield


def write_whole(file: Path, data: bytes) -> None:
    """Write `data` to `file` in one step: readers find the old content or the new, never a part."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with fresh.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
