"""Answers → two files: the results, and apart from them the failures."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from guideway.producers.batch.results.answer import Answer
from guideway.producers.batch.results.lines import line_of
from guideway.producers.batch.results.table import Table
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed


class ResultFiles:
    """`with ResultFiles(output, errors, "jsonl", created_s=…) as files:` – left without an error, both are whole."""

    def __init__(
        self, output: IO[bytes], errors: IO[bytes], form: Literal["jsonl", "parquet"], *, created_s: int
    ) -> None:
        """form: of the results; failures are JSONL. created_s: when the job was submitted, Unix seconds.

        Raises Refusal(invalid_setting) for Parquet without pyarrow.
        """
        self._output, self._errors, self._created_s = output, errors, created_s
        self._table = Table(output) if form == "parquet" else None

    def write(self, answer: Answer) -> None:
        """Each answer goes into one of the files. Raises OSError."""
        if not isinstance(answer.reply, Completed):
            self._errors.write(line_of(answer, created_s=self._created_s))
        elif self._table is not None:
            self._table.add(answer)
        else:
            self._output.write(line_of(answer, created_s=self._created_s))

    def __enter__(self) -> ResultFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._table is not None and error is None:
            self._table.close()


@contextlib.contextmanager
def fresh_file(path: Path) -> Iterator[IO[bytes]]:
    """A file on this machine that has its name once it is whole, and never takes the place of another.

    Raises: Refusal(invalid_setting) where there is one, or its folder is not there; OSError where it cannot be written.
    """
    if path.exists():
        raise Refusal(FailureCode.INVALID_SETTING, f"{path} exists: name another file, or remove it first")
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        out = fresh.open("xb")
    except FileNotFoundError:
        raise Refusal(FailureCode.INVALID_SETTING, f"there is no folder {path.parent}: make it first") from None
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        try:
            # Unlike renaming, it fails where somebody has made one meanwhile.
            os.link(fresh, path)
        except FileExistsError:
            raise _made_meanwhile(path) from None
        except OSError:
            # There are file systems without links.
            if path.exists():
                raise _made_meanwhile(path) from None
            fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def _made_meanwhile(path: Path) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, f"{path} exists by now: name another file")
