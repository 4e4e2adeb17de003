"""Results of a batch job: copied out of the store, whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

import msgspec

from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.jobs import Job
from guideway.producers.batch.results.table import require_parquet
from guideway.producers.batch.results.writing import fresh_file
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.batch import OutputForm
from guideway.settings import Settings

_OTHERS: Final = frozenset({".csv", ".tsv", ".json", ".xlsx", ".xls", ".gz", ".bz2", ".xz", ".zst", ".zip"})
"""Endings of files in other forms; results are not compressed either."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """Where the results are."""

    out: str
    errors: str = ""
    """Where the failures are; empty: there are none."""


def errors_beside(out: Path) -> Path:
    """`rows.errors.jsonl` for `rows.jsonl`."""
    return out.with_name(f"{out.stem}.errors.jsonl")


def form_of(out: Path) -> OutputForm:
    """The form of results in a file of this name."""
    return "parquet" if out.suffix == ".parquet" else "jsonl"


def require_free(out: Path) -> None:
    """Raises Refusal(invalid_setting) if results cannot be written there."""
    if str(out) == "-":
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "results are a file, which appears when it is whole, and not printed: name one, such as results.jsonl",
        )
    if out.suffix.lower() in _OTHERS:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"results are JSONL or Parquet, and {out.name} looks like something else: name a file .jsonl or .parquet",
        )
    for file in (out, errors_beside(out)):
        if file.exists():
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{file} is there already: name another file with --out, or remove it"
            )
    if not out.absolute().parent.is_dir():
        raise Refusal(FailureCode.INVALID_SETTING, f"there is no folder {out.absolute().parent}: make it")
    if out.suffix == ".parquet":
        require_parquet()


def write(settings: Settings, job: Job, out: Path) -> Written:
    """Copy the results of a job that has ended.

    Raises Refusal(invalid_setting): it has not ended or has failed, its files are gone, or `out` cannot be written.
    """
    ended = job.ended
    name = f"batch job {job.namespace}/{job.job.id}"
    if ended is None:
        raise Refusal(FailureCode.INVALID_SETTING, f"{name} is {job.state}: wait until it has ended, or cancel it")
    if not ended.output:
        raise Refusal(FailureCode.INVALID_SETTING, f"{name} has failed and has no results: {ended.message}")
    if form_of(out) != job.job.form:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the results of {name} are {job.job.form.upper()}: name a file .{job.job.form}",
        )
    require_free(out)
    folder, beside = JobFolder(settings.store, job.namespace, job.job.id), errors_beside(out)
    try:
        # Both are whole before one has its name; the results have theirs last.
        with contextlib.ExitStack() as files:
            copied = [(ended.output, out)] + ([(ended.errors, beside)] if ended.counts.failed else [])
            for name, file in copied:
                shutil.copyfileobj(files.enter_context(folder.reading(name)), files.enter_context(fresh_file(file)))
    except FileNotFoundError:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"the store {settings.store} has no results of {name}: they were removed"
        ) from None
    except OSError as error:
        raise Refusal(FailureCode.INVALID_SETTING, f"{out} cannot be written ({error.strerror or error})") from None
    with contextlib.suppress(Exception):
        # A store that cannot be written gives them once more: the command says so.
        folder.take()
    return Written(out=str(out), errors=str(beside) if ended.counts.failed else "")
