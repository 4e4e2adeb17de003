"""The jobs of a namespace, for whoever submits, watches and cancels them: the command line and gateways."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal

import msgspec
from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer, started, unreachable
from guideway.delivery.clients.topic_records import topic_records
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.batch.files.row import BadRow, BatchRow
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.splitting import Split, split
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import batch_cancel_topic, batch_events_topic, batch_topic
from guideway.schemas.services.batch import (
    MAX_DEADLINE_S,
    MAX_NOTE_CHARS,
    BatchCancelled,
    BatchDeleted,
    BatchEnded,
    BatchJob,
    BatchNews,
    BatchProgress,
    Counts,
    Order,
    OutputForm,
)
from guideway.schemas.wire import BATCH_JOB, BATCH_NEWS, BATCH_WISH, Undecodable

State = Literal["waiting", "running", "cancelling", "ending", "done", "expired", "cancelled", "failed"]
DAY_S: Final = 24 * 3600
_SHOWN: Final = 5


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """How a job is to be carried out."""

    deadline_s: float = DAY_S
    """Seconds from when it is submitted; rows that have no answer by then get a failure."""
    order: Order = "file"
    form: OutputForm = "jsonl"
    dedupe: bool = False
    name: str = ""
    """Of the file, for people."""
    source: str = ""
    """Digest of the file and of how it is read: by it the job is found when the file is submitted again."""
    notes: Mapping[str, str] = {}
    id: str = ""
    """Of the job; empty: one is made."""
    submitted_ms: int | None = None
    """Unix time, from which the deadline counts; None: now."""

    def check(self) -> None:
        """Raises Refusal(invalid_setting)."""
        if not 1 <= self.deadline_s <= MAX_DEADLINE_S:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"a job may take 1 second to {MAX_DEADLINE_S // DAY_S} days: choose its deadline among these",
            )


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job with what is known of it."""

    namespace: str
    job: BatchJob
    progress: BatchProgress | None = None
    """None: no batcher has told anything yet."""
    ended: BatchEnded | None = None
    is_cancelled: bool = False
    """Somebody has cancelled it; it may not have ended yet."""

    @property
    def state(self) -> State:
        if self.ended is not None:
            return self.ended.outcome
        if self.progress is not None and self.progress.stage == "ending":
            return "ending"
        if self.is_cancelled:
            return "cancelling"
        return "waiting" if self.progress is None else "running"

    @property
    def counts(self) -> Counts:
        if self.ended is not None:
            return self.ended.counts
        return self.progress.counts if self.progress is not None else Counts()


class Jobs:
    """The batch jobs of a cluster. Methods raise Refusal: `broker_unreachable`, `not_allowed`."""

    def __init__(self, cluster: Cluster, store: str) -> None:
        """store: in which the jobs have their rows, any fsspec address: the one that the batchers have."""
        self.cluster, self._store = cluster, store

    def folder(self, namespace: str, job: str) -> JobFolder:
        """Where the job's files are. Raises Refusal(invalid_setting) for a store that cannot be opened."""
        return JobFolder(self._store, namespace, job)

    async def submit(
        self,
        namespace: str,
        rows: Iterable[BatchRow | BadRow],
        wanted: Wanted,
        *,
        progress: Callable[[int], None] = lambda _rows: None,
    ) -> BatchJob:
        """Write the rows into the store, and have a batcher answer them. The rows are read in a thread.

        progress: is told how many rows are written. The topics must be there (`infra.topics.batches`).
        Raises also: Refusal(invalid_data) where there is no row; what the rows raise; OSError of the store.
        """
        wanted.check()
        id_ = wanted.id or f"batch-{secrets.token_hex(8)}"
        folder = self.folder(namespace, id_)

        def write() -> Split:
            try:
                return split(rows, folder, dedupe=wanted.dedupe, progress=progress)
            except BaseException:
                # A store that is full stays so otherwise. Under an id that was given, somebody else may write.
                if not wanted.id:
                    with contextlib.suppress(Exception):
                        folder.remove()
                raise

        written = await asyncio.to_thread(write)
        now_ms = wanted.submitted_ms or time.time_ns() // 1_000_000
        job = BatchJob(
            id=id_,
            rows=written.rows,
            pieces=written.pieces,
            index=written.index,
            secret=secrets.token_hex(16),
            submitted_ms=now_ms,
            deadline_ms=now_ms + int(wanted.deadline_s * 1000),
            order=wanted.order,
            form=wanted.form,
            dedupe=wanted.dedupe,
            source=wanted.source,
            name=wanted.name[:MAX_NOTE_CHARS],
            notes=dict(wanted.notes),
        )
        await self._send(batch_topic(namespace), id_, BATCH_JOB.encode(job))
        return job

    async def list(self, namespace: str) -> list[Job]:
        """All jobs of the namespace, the latest last."""
        codecs: dict[str, Any] = {
            batch_topic(namespace): BATCH_JOB,
            batch_cancel_topic(namespace): BATCH_WISH,
            batch_events_topic(namespace): BATCH_NEWS,
        }
        read: dict[str, list[Any]] = {topic: [] for topic in codecs}
        async with _reading(self.cluster, read.keys()) as records:
            async for record in records:
                if (message := _decoded(codecs[record.topic], record.value)) is not None:
                    read[record.topic].append(message)
        jobs, wishes, news = read.values()
        found: dict[str, Job] = {}
        for job in jobs:
            found.setdefault(job.id, Job(namespace=namespace, job=job))
        for one in wishes:
            if isinstance(one, BatchDeleted):
                found.pop(one.job, None)
            elif one.job in found:
                found[one.job] = msgspec.structs.replace(found[one.job], is_cancelled=True)
        for one in news:
            if one.job in found:
                found[one.job] = _with(found[one.job], one)
        return sorted(found.values(), key=lambda one: (one.job.submitted_ms, one.job.id))

    async def job(self, namespace: str, id_: str) -> Job:
        """One job. Raises also Refusal(invalid_setting) where there is none of this id; it names the latest."""
        jobs = await self.list(namespace)
        for one in jobs:
            if one.job.id == id_:
                return one
        latest = ", ".join(one.job.id for one in jobs[-_SHOWN:]) or "none"
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"there is no batch job {id_[:80]!r} in namespace {namespace}; the latest are: {latest}",
        )

    async def watch(self, namespace: str, id_: str) -> AsyncIterator[Job]:
        """The job each time something is told of it, until it has ended. Raises as `job`."""
        job = await self.job(namespace, id_)
        yield job
        if job.ended is not None:
            return
        async with _reading(self.cluster, batch_events_topic(namespace), follow=True) as records:
            async for record in records:
                news = _decoded(BATCH_NEWS, record.value)
                if news is not None and news.job == id_:
                    job = _with(job, news)
                    yield job
                    if job.ended is not None:
                        return

    async def cancel(self, namespace: str, id_: str) -> Job:
        """Have the job end with what it has; returns it as it was. Raises as `job`.

        Raises Refusal(invalid_setting) where it has ended. It may end otherwise meanwhile: its outcome tells.
        """
        job = await self.job(namespace, id_)
        if job.ended is not None:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"batch job {namespace}/{id_} has ended already: it is {job.state}"
            )
        await self._send(batch_cancel_topic(namespace), id_, BATCH_WISH.encode(BatchCancelled(job=id_)))
        return job

    async def delete(self, namespace: str, id_: str) -> Job:
        """Remove the results of a job, and list it no more; returns it as it was.

        Raises as `job`; Refusal(invalid_setting) where it has not ended; OSError of the store.
        """
        job = await self.job(namespace, id_)
        if job.ended is None:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"batch job {namespace}/{id_} is {job.state}: cancel it, or wait for its end",
            )
        # The results first: whoever is interrupted finds the job, and deletes it again.
        await asyncio.to_thread(self.folder(namespace, id_).forget_results)
        await self._send(batch_cancel_topic(namespace), id_, BATCH_WISH.encode(BatchDeleted(job=id_)))
        return job

    async def _send(self, topic: str, key: str, value: bytes) -> None:
        async with started(make_producer(self.cluster, "batch"), self.cluster) as producer:
            try:
                await producer.send_and_wait(topic, key=key.encode(), value=value)
            except KafkaError as error:
                raise unreachable(self.cluster, error) from None


def _with(job: Job, news: BatchNews) -> Job:
    """The first end counts, and nothing after it."""
    if job.ended is not None:
        return job
    if isinstance(news, BatchEnded):
        return msgspec.structs.replace(job, ended=news)
    if job.progress is not None and news.at_ms < job.progress.at_ms:
        return job
    return msgspec.structs.replace(job, progress=news)


def _decoded(codec: Any, value: bytes | None) -> Any:
    """The message; None if it cannot be read, as one of a newer version: nobody waits for an error here."""
    try:
        return codec.decode(value)
    except Undecodable:
        return None


def _reading(cluster: Cluster, topics: str | Collection[str], *, follow: bool = False) -> Any:
    return aclosing(topic_records(cluster, "batch", topics, follow=follow))
