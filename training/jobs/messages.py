"""Messages about training jobs: the job, its events, its end. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.failures import FailureCode
from guideway.schemas.wire import Codec
from guideway.training.runs.events import RunEvent
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows

JOB_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,198}[a-z0-9])?")
"""The id is also the name of a folder."""
JobId = Annotated[str, Meta(pattern=rf"^{JOB_ID.pattern}\Z")]
Outcome = Literal["done", "failed", "cancelled"]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="schema"):
    pass


class Job(_Message, frozen=True, kw_only=True, tag="guideway.job.v1"):
    """`studio submit` → trainers: carry out this task."""

    id: JobId
    task: Task
    """Its paths are absolute, on storage that the trainers share."""
    publish: bool = False
    """Whether the trained guidance is published for the endpoint, by the task's publish rule."""


class JobEvent(_Message, frozen=True, kw_only=True, tag="guideway.job_event.v1"):
    """Trainer → whoever watches: something happened in the job's run.

    A trainer that takes a job over sends all of its events again; `number` tells which are known.
    """

    job: str
    number: int
    """Number of the event in the run, from 1 on."""
    event: RunEvent


class JobEnded(_Message, frozen=True, kw_only=True, tag="guideway.job_ended.v1"):
    """Trainer → whoever watches: exactly one for each job."""

    job: str
    outcome: Outcome
    run: str
    """The run's folder."""
    published: bool = False
    code: str = ""
    """Failure code if the job failed, was cancelled, or was not published; else empty."""
    message: str = ""
    """What to change, for a person."""


class JobCancelled(_Message, frozen=True, kw_only=True, tag="guideway.job_cancelled.v1"):
    """`studio cancel` → every trainer: do not begin this job; if you run it, end it."""

    job: str


JobNews = JobEvent | JobEnded

JOB: Codec[Job] = Codec(Job)
JOB_NEWS: Codec[JobNews] = Codec(JobEvent | JobEnded)
JOB_CANCELLED: Codec[JobCancelled] = Codec(JobCancelled)


def unread_job_ended(key: bytes | None, reason: str) -> JobEnded | None:
    """The end of a job that cannot be decoded, for its watchers; None if the record's key is not a job id."""
    job = (key or b"").decode("utf-8", "replace")
    if JOB_ID.fullmatch(job) is None:
        return None
    message = f"the trainer cannot read the job ({reason}): submit it with the guideway that the trainers have"
    return JobEnded(job=job, outcome="failed", run="", code=FailureCode.UNDECODABLE_EVENT.value, message=message)


class Followed:
    """Filters the news of one job: each once, in order."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._known = 0
        self._ended = False

    def is_new(self, news: JobNews) -> bool:
        """Whether the news is of this job and was not seen before."""
        if news.job != self._job or self._ended:
            return False
        if isinstance(news, JobEnded):
            self._ended = True
            return True
        if news.number <= self._known:
            return False
        self._known = news.number
        return True


def with_absolute_paths(task: Task, folder: Path) -> Task:
    """The task with absolute paths. folder: its relative paths start here."""
    data = task.data

    def absolute(path: str) -> str:
        return str((folder / path).resolve())

    archive = data.archive
    if isinstance(archive, ArchivedRows) and archive.corrections is not None:
        archive = msgspec.structs.replace(archive, corrections=absolute(archive.corrections))
    return msgspec.structs.replace(
        task,
        models=None if task.models is None else absolute(task.models),
        data=msgspec.structs.replace(
            data,
            train=None if data.train is None else absolute(data.train),
            archive=archive,
            eval=None if data.eval is None else absolute(data.eval),
        ),
    )
