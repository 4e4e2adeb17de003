"""Submits a file as a batch job, or finds the job that it was submitted as."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar

import msgspec

from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.producers.batch.files.check import check_file
from guideway.producers.batch.files.form import FileForm
from guideway.producers.batch.files.opening import opened, seekable
from guideway.producers.batch.files.reading import found_rows, read_rows
from guideway.producers.batch.files.survey import survey
from guideway.producers.batch.jobs import DAY_S, Job, Jobs, Wanted
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME
from guideway.schemas.services.batch import Order, OutputForm
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of

STANDARD_INPUT: Final = "-"
OUT: Final = "out"
"""Note on a job: the file into which its results are to go."""
_LOOKED_AT: Final = 100
_PIECE_BYTES: Final = 2**20

T = TypeVar("T")
Row = TypeVar("Row")
Stage = Literal["looking", "submitting"]
Progress = Callable[[Stage, int], None]
"""Told what is done, and of how many rows it is done."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a file."""

    form: FileForm
    """How it is read; its name is a path, an address, or `-`."""
    namespace: str | None = None
    """Whose job it is; None: the namespace of the endpoints that its first rows name."""
    deadline_s: float = DAY_S
    order: Order = "file"
    output: OutputForm = "jsonl"
    dedupe: bool = False
    out: str = ""
    """Where the results are to go, if that is known: one job at a time has a file for its results."""
    notes: dict[str, str] = {}


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The job of a file."""

    job: Job
    is_new: bool
    """False: the file was submitted before, and the job goes on, or nobody has its results."""


async def submit(
    settings: Settings, asked: Asked, *, resume: bool = False, progress: Progress = lambda _stage, _rows: None
) -> Submitted:
    """Check the file, write its rows into the store, and have a batcher answer them.

    resume: a job of this very file that has not ended is returned instead.
    Raises Refusal: invalid_data for a file that cannot be read or of which all first rows would fail, invalid_setting,
    not_allowed, broker_unreachable.
    """
    jobs = Jobs(settings.answering_cluster(), settings.store)
    catalogue = await catalogue_of(settings)
    with closing(await asyncio.to_thread(_source, asked.form.name)) as source:
        namespace = asked.namespace
        if namespace is None:
            namespace = await _read(asked, partial(_namespace, source, asked.form))
        await _read(asked, partial(check_file, source, asked.form, catalogue=catalogue, caller=namespace))
        digest = await _read(asked, partial(_digest, source, asked))
        if resume:
            listed = await jobs.list(namespace)
            if (found := await asyncio.to_thread(_earlier, jobs, listed, digest, asked)) is not None:
                return Submitted(job=found, is_new=False)
        progress("looking", 0)
        surveyed = await _read(asked, partial(survey, source, asked.form))
        progress("looking", surveyed.rows)
        definitions = [*topics.calls(namespace), *topics.batches(namespace)]
        await make_topics(jobs.cluster, definitions, without_right=True)
        rows = _as_surveyed(
            read_rows(source, asked.form, catalogue=catalogue, caller=namespace, doubled=surveyed.doubled_lines),
            surveyed.rows,
            asked.form.name,
        )
        wanted = Wanted(
            deadline_s=asked.deadline_s,
            order=asked.order,
            form=asked.output,
            dedupe=asked.dedupe,
            name=asked.form.name,
            source=digest,
            notes=asked.notes | ({OUT: asked.out} if asked.out else {}),
        )
        try:
            job = await jobs.submit(namespace, rows, wanted, progress=lambda count: progress("submitting", count))
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the rows cannot be written into the store, {settings.store} ({error.strerror or error}): make room, "
                "or name another with GUIDEWAY_STORE",
            ) from None
    return Submitted(job=Job(namespace=namespace, job=job), is_new=True)


def _as_surveyed(rows: Iterable[Row], expected: int, name: str) -> Iterator[Row]:
    """The rows, so many. Raises Refusal: invalid_setting where they cannot be read now; invalid_data for a file that
    somebody writes meanwhile: of the rest nobody knows which ids it has twice.
    """
    count = 0
    try:
        for row in rows:
            count += 1
            if count <= expected:
                yield row
    except OSError as error:
        raise _unread(name, error) from None
    if count != expected:
        raise Refusal(
            FailureCode.INVALID_DATA,
            f"{name} had {expected} rows at first and {count} when they were submitted, so nothing is sent: wait until "
            "nobody writes it",
        )


async def _read(asked: Asked, do: Callable[[], T]) -> T:
    """Raises Refusal: invalid_setting where the file cannot be read now; what `do` raises."""
    try:
        return await asyncio.to_thread(do)
    except OSError as error:
        raise _unread(asked.form.name, error) from None


def _unread(name: str, error: OSError) -> Refusal:
    why = error.strerror or str(error)[:200] or type(error).__name__
    return Refusal(
        FailureCode.INVALID_SETTING, f"{name} cannot be read to its end now ({why}): see to that, and submit it again"
    )


def _source(name: str) -> BinaryIO:
    return seekable(sys.stdin.buffer, name) if name == STANDARD_INPUT else opened(name)


def _namespace(source: BinaryIO, form: FileForm) -> str:
    """That of the endpoint which all rows go to, or which the first rows name."""
    if form.endpoint is not None:
        return form.endpoint.split("/")[1]
    rows = islice(found_rows(source, form), _LOOKED_AT)
    found = {owner for row in rows if isinstance(row.cells, dict) and (owner := _owner(row.cells)) is not None}
    if len(found) == 1:
        return found.pop()
    what = (
        f"its first rows name endpoints of {', '.join(sorted(found))}" if found else "its first rows name no endpoint"
    )
    raise Refusal(
        FailureCode.INVALID_SETTING, f"{what}: say with --namespace whose job it is, with whose rights and quotas"
    )


def _owner(cells: Mapping[str, Any]) -> str | None:
    """The namespace of the endpoint that a row names, in our form or in OpenAI's."""
    body = cells.get("body")
    named = cells.get("endpoint") or (body.get("model") if isinstance(body, dict) else None)
    owner = named.removeprefix("/").partition("/")[0] if isinstance(named, str) else ""
    return owner if NAME.fullmatch(owner) else None


def _digest(source: BinaryIO, asked: Asked) -> str:
    """Of the file, of how it is read and of what is asked: two that have the same get the same answers."""
    found = hashlib.sha256(msgspec.json.encode([asked.form, asked.namespace, asked.order, asked.output, asked.dedupe]))
    source.seek(0)
    while piece := source.read(_PIECE_BYTES):
        found.update(piece)
    return found.hexdigest()


def _earlier(jobs: Jobs, listed: list[Job], digest: str, asked: Asked) -> Job | None:
    """The job that this file was submitted as and that goes on; or that is done, with results that nobody has yet.

    Whoever has the results and asks once more wants them anew: the endpoint may be another by now.
    Raises Refusal(invalid_setting) where another job is to write into the same file.
    """
    source = "standard input" if asked.form.name == STANDARD_INPUT else asked.form.name
    for job in reversed(listed):
        if job.job.source == digest:
            if job.state in UNFINISHED:
                return job
            if job.state == "done" and asked.out and job.job.notes.get(OUT) == asked.out and _is_left(jobs, job):
                return job
        if asked.out and job.job.notes.get(OUT) == asked.out and job.state in UNFINISHED:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{source} or how it is read has changed since batch job {job.namespace}/{job.job.id} was "
                f"submitted, whose results go to {Path(asked.out).name} as well: wait for it (`guideway batch status "
                f"{job.namespace}/{job.job.id}`), cancel it, or name another file with --out",
            )
    return None


def _is_left(jobs: Jobs, job: Job) -> bool:
    """Whether the command that submitted the job has not written its results."""
    return job.ended is not None and jobs.folder(job.namespace, job.job.id).is_to_be_taken(job.ended.output)


UNFINISHED: Final = frozenset({"waiting", "running", "ending"})
