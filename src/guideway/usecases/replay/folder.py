"""The folder of a replay: what is asked, what came, what was made of it. It holds callers' texts: its owner's only.

plan.json         what is compared; written when rows.jsonl is whole
rows.jsonl        what is asked
answers.jsonl     what came, as it came; a line that a kill has cut counts as not there
comparison.json   the result
report.html       the result for people

A shadow adds rows as they come, and seen.json (live.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.training.replays.answers import SIDES, Asked, Given, Question, Side
from guideway.training.runs.folder import write_whole

_PLAN: Final = "plan.json"
_ROWS: Final = "rows.jsonl"
_ANSWERS: Final = "answers.jsonl"
COMPARISON: Final = "comparison.json"
REPORT: Final = "report.html"
SEEN: Final = "seen.json"


class Shadowing(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow has beside a replay."""

    share: float
    """Of the events, above 0 and up to 1."""
    promote: Literal["never", "if_better"]
    candidate: int | None
    """The version of the endpoint's candidate, where that is what is new."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A replay, as it was begun."""

    id: str
    asked_for: dict[str, Any]
    """What the command was given: the same again goes on with this replay."""
    question: Question
    now: Endpoint
    """The trial of the endpoint as it is."""
    new: Endpoint
    rows: int
    """Of a shadow: how many it ends with."""
    shadow: Shadowing | None = None
    """None: a replay."""

    def trial(self, side: Side) -> Endpoint:
        """The endpoint that answers for this side."""
        return self.now if side == "now" else self.new


class ReplayFolder:
    """Owned by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def plan(self) -> Plan | None:
        """None: nothing is begun here. Raises Refusal(invalid_setting) for a folder of something else."""
        if not self.path.exists() or not (names := {one.name for one in self.path.iterdir()}):
            return None
        if _PLAN not in names:
            # A kill while it began leaves the rows, or half of them.
            if all(one == _ROWS or one.startswith((f".{_ROWS}.", f".{_PLAN}.")) for one in names):
                return None
            raise _no_replay(self.path)
        try:
            return msgspec.json.decode((self.path / _PLAN).read_bytes(), type=Plan)
        except (OSError, msgspec.DecodeError):
            raise _no_replay(self.path) from None

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return (self.path / COMPARISON).exists()

    def comparison(self) -> dict[str, Any]:
        """Its result."""
        found: dict[str, Any] = msgspec.json.decode((self.path / COMPARISON).read_bytes())
        return found

    def begin(self, plan: Plan, rows: Sequence[Asked]) -> None:
        """Write what is asked. Raises Refusal(invalid_setting) where that cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self.path / _ROWS, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            write_whole(self.path / _PLAN, msgspec.json.encode(plan))
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{self.path} cannot be written ({error.strerror}): name another with --out",
            ) from None

    def rows(self) -> list[Asked]:
        """What is asked, in order."""
        decoder = msgspec.json.Decoder(Asked)
        return [decoder.decode(line) for line in (self.path / _ROWS).read_bytes().splitlines()]

    def add_rows(self, rows: Sequence[Asked]) -> None:
        """Add what is asked as well; on the disk when this returns."""
        with (self.path / _ROWS).open("ab") as stream:
            stream.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            stream.flush()
            os.fsync(stream.fileno())

    def keep_rows(self, count: int) -> None:
        """Cut off what is behind so many rows: a kill came before it counted."""
        lines = (path := self.path / _ROWS).read_bytes().splitlines(keepends=True)
        if len(lines) > count:
            write_whole(path, b"".join(lines[:count]))

    def answers(self) -> dict[tuple[Side, int], Given]:
        """What came so far, by side and number; of a row that was answered twice, the first."""
        found: dict[tuple[Side, int], Given] = {}
        for one in self._lines():
            found.setdefault((one.side, one.number), one)
        return found

    def writing(self) -> IO[bytes]:
        """To add answers to, one `add` each. What a kill has cut is cut off first."""
        path = self.path / _ANSWERS
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        stream = path.open("ab", buffering=0)
        if path.stat().st_size > (length := len(whole) + 1 if whole else 0):
            os.truncate(path, length)
        return stream

    def forget_answers(self) -> None:
        """As if nothing had been asked yet."""
        (self.path / _ANSWERS).unlink(missing_ok=True)

    def give_up(self) -> None:
        """As if it had not been begun: the same command begins anew."""
        for name in (SEEN, _ANSWERS, _PLAN, _ROWS):  # a kill in between leaves one that has just begun, or none
            (self.path / name).unlink(missing_ok=True)

    def finish(self, comparison: bytes, page: str) -> None:
        """Write the result; the comparison last, for it says that all is there."""
        write_whole(self.path / REPORT, page.encode("utf-8", "replace"))
        write_whole(self.path / COMPARISON, comparison)

    def _lines(self) -> Iterator[Given]:
        path, decoder = self.path / _ANSWERS, msgspec.json.Decoder(Given)
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if line.endswith(b"\n"):
                yield decoder.decode(line)


def add(stream: IO[bytes], given: Given) -> None:
    """Add an answer: one write, so that a kill cuts at most this line."""
    stream.write(msgspec.json.encode(given) + b"\n")


def missing(plan: Plan, rows: Sequence[Asked], there: dict[tuple[Side, int], Given]) -> list[tuple[Side, Asked]]:
    """What is still to be asked: both sides of a row one after the other."""
    return [(side, row) for row in rows for side in SIDES if (side, row.number) not in there]


def folder_for(home: Path, name: str, asked_for: dict[str, Any]) -> ReplayFolder:
    """The folder in which this was begun and not finished, else a new one, below `home`."""
    digest = hashlib.sha256(msgspec.json.encode(asked_for, order="deterministic")).hexdigest()[:8]
    number = 1
    while True:
        found = ReplayFolder(home / (f"{name}-{digest}" if number == 1 else f"{name}-{digest}-{number}"))
        if not found.is_finished:
            return found
        number += 1


def _no_replay(path: Path) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, f"{path} holds something else than a replay: name another with --out")
