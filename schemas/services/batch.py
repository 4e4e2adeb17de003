"""Batch jobs: whoever submits, watches or cancels one ↔ batchers. Messages hold fields only.

The rows of a job are no messages: they stand in the store (`producers/batch/folder.py`).
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

MAX_JOB_ID_CHARS: Final = 64
JOB_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
"""The id is also the name of a folder, and begins the id of each request of the job."""
MAX_DEADLINE_S: Final = 7 * 24 * 3600
"""What waits in a topic for longer may be gone: so long Kafka keeps records by default."""
KEPT_DAYS: Final = 30
"""Results are kept no longer from when a job has ended: the job is not listed then either."""
MAX_NOTE_CHARS: Final = 512

JobId = Annotated[str, Meta(pattern=rf"^{JOB_ID.pattern}\Z")]
Count = Annotated[int, Meta(ge=0)]
Order = Literal["file", "as-they-come"]
OutputForm = Literal["jsonl", "parquet"]
Outcome = Literal["done", "expired", "cancelled", "failed"]
"""`done`: every row has a result or a failure of its own. `expired` and `cancelled`: the rows that had none by then
have a failure that says so. `failed`: the job itself could not be carried out; there is no output."""


class _Message(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, tag_field="schema"
):
    pass


class BatchJob(_Message, frozen=True, kw_only=True, tag="guideway.batch.job.v1"):
    """Whoever submits → batchers: answer these rows. Whose the job is says the topic, `gw.NAMESPACE.batch.v1`."""

    id: JobId
    rows: Annotated[int, Meta(ge=1)]
    """Bad rows and repeated ones among them; so many lines the output files have together."""
    pieces: Annotated[int, Meta(ge=1)]
    """Of the input in the store."""
    index: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """SHA-256 of the list of these pieces, which has the hash of each: the rows cannot be exchanged afterwards."""
    secret: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    """Random. The ids of its requests are made with it, so that callers, who do not read this topic, guess none."""
    submitted_ms: int
    """Unix time in milliseconds, as all times here."""
    deadline_ms: int
    order: Order = "file"
    form: OutputForm = "jsonl"
    """Of the results; failures are JSONL."""
    dedupe: bool = False
    """Rows that ask the same of the same endpoint are computed once."""
    source: Annotated[str, Meta(max_length=64)] = ""
    """SHA-256 of the file and of how it is read; empty: a gateway has it, and finds the job by its id."""
    name: Annotated[str, Meta(max_length=MAX_NOTE_CHARS)] = ""
    """Of the file, for people."""
    notes: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=MAX_NOTE_CHARS)]],
        Meta(max_length=24),
    ] = {}
    """What whoever submits it wants to find again; batchers do not look at it."""


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How far a job is, in rows and tokens."""

    sent: Count = 0
    """Rows in the pieces whose events are published, or that needed none."""
    completed: Count = 0
    failures: dict[str, Count] = {}
    """Failure code → rows."""
    prompt_tokens: Count = 0
    output_tokens: Count = 0
    """Of computed rows: a repeated one costs nothing."""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def answered(self) -> int:
        return self.completed + self.failed


class BatchProgress(_Message, frozen=True, kw_only=True, tag="guideway.batch.progress.v1"):
    """Batcher → whoever watches: how far a job is. Kept: the latest of each job."""

    job: str
    at_ms: int
    stage: Literal["running", "cancelling", "ending"]
    """`ending`: all rows are answered, and the output is written."""
    counts: Counts
    trouble: str = ""
    """What keeps the job up, for a person; empty: nothing."""


class BatchEnded(_Message, frozen=True, kw_only=True, tag="guideway.batch.ended.v1"):
    """Batcher → whoever watches: exactly one for each job."""

    job: str
    at_ms: int
    outcome: Outcome
    counts: Counts
    output: str = ""
    """Name of the file with the results, in the job's folder of the store."""
    errors: str = ""
    """Name of the file with the failures."""
    code: str = ""
    """Failure code, of a job that failed."""
    message: str = ""
    """What to change, for a person."""


class BatchCancelled(_Message, frozen=True, kw_only=True, tag="guideway.batch.cancelled.v1"):
    """Whoever cancels → every batcher: send no more rows of this job, and end it with what it has."""

    job: str


class BatchDeleted(_Message, frozen=True, kw_only=True, tag="guideway.batch.deleted.v1"):
    """Whoever deletes → whoever lists: this job has ended, its results are removed, and it is not shown any more."""

    job: str


BatchNews = BatchProgress | BatchEnded
BatchWish = BatchCancelled | BatchDeleted
