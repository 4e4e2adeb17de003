"""Trainers: jobs from their topic, each carried out by one of them, whatever becomes of the others.

The promise is the delivery's: a job's end and its offset become visible in one transaction under the lock of the job's
partition, so that each job ends exactly once. One that is killed in mid-training leaves the offset where it was; who
gets the partition next goes on from the checkpoint. That no two are at one run is held by a lock on its folder.
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
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.wire import Undecodable
from guideway.training.jobs.job_run import JobRun
from guideway.training.jobs.job_topics import followed
from guideway.training.jobs.messages import JOB, JOB_CANCELLED, JOB_NEWS, Job, JobEnded, JobEvent, unread_job_ended
from guideway.training.runs.events import RunEvent

log = structlog.get_logger(__name__)


_PATIENCE_S: Final = 60.0
"""For a job's process to end its present step and to keep a checkpoint."""


class TrainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one trainer."""

    bootstrap: str
    jobs: Path
    """Folder of all jobs, on storage that all trainers share."""
    command: tuple[str, ...]
    """How the process of a job is run; see `process_messages`."""
    device: str = "cpu"

    @property
    def delivery(self) -> DeliverySettings:
        """One job at a time; at shutdown the job is not waited for, since it goes on elsewhere."""
        return DeliverySettings(bootstrap=self.bootstrap, capacity=1, drain_timeout_s=0.1)


class JobService:
    """One of any number of trainers. `run` returns after `stop`; the job at hand is left to the next trainer."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._cancelled: set[str] = set()
        self._at_hand: dict[str, asyncio.Timeout] = {}
        """Job → the scope in which it is carried out here."""
        self._work: set[asyncio.Task[Any]] = set()
        self._within_s: float | None = None
        self._producer: Any
        self.pipeline = Pipeline(
            settings.delivery,
            group=names.TRAINERS_GROUP,
            topics=[names.TRAINING_JOBS_TOPIC],
            handle=self._handle,
            refuse=self._refuse,
        )

    def stop(self, within_s: float | None = None) -> None:
        """End the job at hand with a checkpoint, and leave; what takes longer than `within_s` is cut short."""
        self._within_s = within_s
        self.pipeline.stop(within_s)

    async def run(self) -> None:
        """Raises: Refusal `broker_unreachable`, or `invalid_setting` if the topics are not there."""
        bootstrap = self._settings.bootstrap
        async with started(make_producer(bootstrap, "trainer"), bootstrap) as self._producer:
            try:
                async with followed(bootstrap, names.TRAINING_CANCEL_TOPIC, self._note):
                    await self.pipeline.run()
            finally:
                # Its process ends the present step; were we gone before, it would be killed in it.
                if self._work:
                    await asyncio.wait(self._work)

    async def _handle(self, record: Record) -> list[Outgoing]:
        try:
            job = JOB.decode(record.value)
        except Undecodable as error:
            return _unread(record, FailureCode.UNDECODABLE_EVENT, f"no training job: {error}")
        log.info("job begins", job=job.id, endpoint=job.task.address)
        if (task := asyncio.current_task()) is not None:
            self._work.add(task)
            task.add_done_callback(self._work.discard)
        ended = await self._carry_out(job)
        log.info("job has ended", job=job.id, outcome=ended.outcome, code=ended.code)
        return [_outgoing(ended)]

    async def _carry_out(self, job: Job) -> JobEnded:
        run = JobRun(
            job,
            self._settings.jobs / job.id,
            self._settings.command,
            device=self._settings.device,
            patience_s=lambda: _PATIENCE_S if self._within_s is None else self._within_s,
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
            # Whoever watches is to see an end, whatever it was.
            log.exception("job failed", job=job.id)
            code, message = FailureCode.INTERNAL_ERROR, f"{type(error).__name__} in the trainer: report it"
            return msgspec.structs.replace(done, outcome="failed", code=code.value, message=message)

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """What to publish for a job that killed trainer after trainer."""
        try:
            job = JOB.decode(record.value)
        except Undecodable:
            return _unread(record, refusal.code, refusal.message)
        run = str(self._settings.jobs / job.id / "run")
        message = "trainer after trainer died at this job: lower its rows_per_step or its method's size"
        return [_outgoing(JobEnded(job=job.id, outcome="failed", run=run, code=refusal.code.value, message=message))]

    @contextlib.asynccontextmanager
    async def _unless_cancelled(self, job: Job) -> AsyncIterator[None]:
        """Raises Refusal(cancelled) if the job is cancelled before this is entered or while it lasts."""
        refusal = Refusal(FailureCode.CANCELLED, "somebody has cancelled the job: submit it anew if it is wanted")
        if job.id in self._cancelled:
            raise refusal
        try:
            async with asyncio.timeout(None) as scope:
                self._at_hand[job.id] = scope
                try:
                    yield
                finally:
                    del self._at_hand[job.id]
        except TimeoutError:
            # Not every TimeoutError that passes here is of our making.
            if scope.expired():
                raise refusal from None
            raise

    async def _tell(self, job: Job, number: int, event: RunEvent) -> None:
        """Watching is a convenience: where the brokers do not take an event, training goes on."""
        value = JOB_NEWS.encode(JobEvent(job=job.id, number=number, event=event))
        try:
            await self._producer.send(names.TRAINING_EVENTS_TOPIC, key=job.id.encode(), value=value)
        except KafkaError as error:
            log.warning("an event could not be told", job=job.id, number=number, error=repr(error))

    def _note(self, records: Sequence[Any]) -> None:
        for record in records:
            with contextlib.suppress(Undecodable):
                job = JOB_CANCELLED.decode(record.value).job
                self._cancelled.add(job)
                if scope := self._at_hand.get(job):
                    scope.reschedule(asyncio.get_running_loop().time())


def _unread(record: Record, code: FailureCode, reason: str) -> list[Outgoing]:
    ended = unread_job_ended(record.key, reason)
    return [dead_letter(record, code, reason), *([_outgoing(ended)] if ended else [])]


def _outgoing(ended: JobEnded) -> Outgoing:
    return Outgoing(topic=names.TRAINING_EVENTS_TOPIC, key=ended.job.encode(), value=JOB_NEWS.encode(ended))
