"""Trainers: each takes jobs from the jobs topic and runs them. A trainer may die without harm to the jobs.

Each job ends exactly once, because `delivery` publishes its end and its offset in one transaction, under the lock of
the job's partition. If a trainer is killed during training, the offset stays; the next owner of the partition resumes
from the checkpoint. A lock on the run's folder keeps two processes from the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import TRAINERS_GROUP
from guideway.schemas.names.service_topics import (
    TRAINING_TOPICS,
    is_training_cancel_topic,
    owner_of_training,
    training_events_topic,
)
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.wire import Undecodable
from guideway.training.jobs.job_run import JobRun
from guideway.training.jobs.job_topics import followed
from guideway.training.jobs.messages import JOB, JOB_CANCELLED, JOB_NEWS, Job, JobEnded, JobEvent, unread_job_ended
from guideway.training.jobs.ownership import refusal_of
from guideway.training.runs.events import RunEvent

log = structlog.get_logger(__name__)


_Which = tuple[str, str]
"""(namespace, id) of a job."""
_PATIENCE_S: Final = 60.0
"""Seconds for a job's process to end its current step and to write a checkpoint."""


class TrainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one trainer."""

    cluster: Cluster
    jobs: Path
    """Folder of all jobs, on storage that all trainers share."""
    data: Path | None = None
    """Folder in which each namespace has a folder of its own: a job reads nothing else. None: it may read any file."""
    command: tuple[str, ...]
    """Starts the process of a job; see `process_messages`."""
    device: str = "cpu"

    @property
    def delivery(self) -> DeliverySettings:
        """One job at a time. Shutdown does not wait for the job, because another trainer resumes it."""
        return DeliverySettings(cluster=self.cluster, capacity=1, drain_timeout_s=0.1)


class JobService:
    """One of any number of trainers. `run` returns after `stop`, and the next trainer resumes its current job."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._cancelled: set[_Which] = set()
        self._at_hand: dict[_Which, asyncio.Timeout] = {}
        """A job that runs here → the timeout that cancels it."""
        self._work: set[asyncio.Task[Any]] = set()
        self._within_s: float | None = None
        self._producer: Any
        self.pipeline = Pipeline(
            settings.delivery,
            group=TRAINERS_GROUP,
            pattern=TRAINING_TOPICS,
            handle=self._handle,
            refuse=self._refuse,
        )

    def stop(self, within_s: float | None = None) -> None:
        """End the current job with a checkpoint, and leave. within_s: seconds until its process is killed."""
        self._within_s = within_s
        self.pipeline.stop(within_s)

    async def run(self) -> None:
        """Run jobs until `stop`. Raises: Refusal `broker_unreachable`, `invalid_setting` if the topics are missing."""
        cluster = self._settings.cluster
        async with started(make_producer(cluster, "trainer"), cluster) as self._producer:
            try:
                async with followed(cluster, is_training_cancel_topic, self._note):
                    await self.pipeline.run()
            finally:
                # The job's process ends its current step. If this process ended first, the step would be killed.
                if self._work:
                    await asyncio.wait(self._work)

    async def _handle(self, record: Record) -> list[Outgoing]:
        try:
            job = JOB.decode(record.value)
        except Undecodable as error:
            return _unread(record, FailureCode.UNDECODABLE_EVENT, f"no training job: {error}")
        owner = _owner(record)
        if (refusal := refusal_of(job, owner, self._settings.data)) is not None:
            log.warning("job refused", job=job.id, namespace=owner, code=refusal.code.value)
            ended = JobEnded(job=job.id, outcome="failed", run="", code=refusal.code.value, message=refusal.message)
            return [_outgoing(owner, ended)]
        log.info("job begins", job=job.id, endpoint=job.task.address)
        if (task := asyncio.current_task()) is not None:
            self._work.add(task)
            task.add_done_callback(self._work.discard)
        ended = await self._carry_out(job)
        log.info("job has ended", job=job.id, outcome=ended.outcome, code=ended.code)
        return [_outgoing(owner, ended)]

    async def _carry_out(self, job: Job) -> JobEnded:
        run = JobRun(
            job,
            self._settings.jobs / job.task.namespace / job.id,
            self._settings.command,
            device=self._settings.device,
            patience_s=lambda: _PATIENCE_S if self._within_s is None else self._within_s,
            within=None if self._settings.data is None else self._settings.data / job.task.namespace,
        )
        done = JobEnded(job=job.id, outcome="done", run=str(run.run.path))
        try:
            async with self._unless_cancelled(job):
                refused = await run.carry_out(lambda number, event: self._tell(job, number, event))
            if refused is not None:
                return msgspec.structs.replace(done, code=refused.code.value, message=refused.message)
            return msgspec.structs.replace(done, published=job.publish)
        except Refusal as refusal:
            outcome = "cancelled" if refusal.code is FailureCode.CANCELLED else "failed"
            return msgspec.structs.replace(done, outcome=outcome, code=refusal.code.value, message=refusal.message)
        except Exception as error:
            # Watchers must see an end, whatever the error.
            log.exception("job failed", job=job.id)
            code, message = FailureCode.INTERNAL_ERROR, f"{type(error).__name__} in the trainer: report it"
            return msgspec.structs.replace(done, outcome="failed", code=code.value, message=message)

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """What to publish for a job that killed several trainers in a row."""
        try:
            job = JOB.decode(record.value)
        except Undecodable:
            return _unread(record, refusal.code, refusal.message)
        run = str(self._settings.jobs / _owner(record) / job.id / "run")
        message = "trainer after trainer died at this job: lower its rows_per_step or its method's size"
        ended = JobEnded(job=job.id, outcome="failed", run=run, code=refusal.code.value, message=message)
        return [_outgoing(_owner(record), ended)]

    @contextlib.asynccontextmanager
    async def _unless_cancelled(self, job: Job) -> AsyncIterator[None]:
        """A context that raises Refusal `cancelled` if the job is cancelled before or during it."""
        refusal = Refusal(FailureCode.CANCELLED, "somebody has cancelled the job: submit it anew if it is wanted")
        which = (job.task.namespace, job.id)
        if which in self._cancelled:
            raise refusal
        try:
            async with asyncio.timeout(None) as scope:
                self._at_hand[which] = scope
                try:
                    yield
                finally:
                    del self._at_hand[which]
        except TimeoutError:
            # Another TimeoutError may pass here too.
            if scope.expired():
                raise refusal from None
            raise

    async def _tell(self, job: Job, number: int, event: RunEvent) -> None:
        """Send an event to the watchers. If the brokers do not take it, training goes on without it."""
        value = JOB_NEWS.encode(JobEvent(job=job.id, number=number, event=event))
        try:
            await self._producer.send(training_events_topic(job.task.namespace), key=job.id.encode(), value=value)
        except KafkaError as error:
            log.warning("an event could not be told", job=job.id, number=number, error=repr(error))

    def _note(self, records: Sequence[Any]) -> None:
        for record in records:
            with contextlib.suppress(Undecodable):
                job = JOB_CANCELLED.decode(record.value).job
                # A cancellation counts for jobs of its topic's namespace only.
                which = (owner_of_training(record.topic) or "", job)
                self._cancelled.add(which)
                scope = self._at_hand.get(which)
                if scope is not None and not scope.expired():
                    scope.reschedule(asyncio.get_running_loop().time())


def _unread(record: Record, code: FailureCode, reason: str) -> list[Outgoing]:
    ended = unread_job_ended(record.key, reason)
    return [dead_letter(record, code, reason), *([_outgoing(_owner(record), ended)] if ended else [])]


def _owner(record: Record) -> str:
    """The namespace of a job: that of its topic, whatever the job says."""
    owner = owner_of_training(record.topic)
    assert owner is not None, "a trainer reads topics of training jobs only"
    return owner


def _outgoing(owner: str, ended: JobEnded) -> Outgoing:
    return Outgoing(topic=training_events_topic(owner), key=ended.job.encode(), value=JOB_NEWS.encode(ended))
