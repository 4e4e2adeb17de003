"""Batch jobs as a command sees them: listed, watched, cancelled; and a batcher of its own where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.clients.progress import GroupProgress
from guideway.producers.batch.jobs import Job, Jobs
from guideway.producers.batch.service import BatcherSettings, BatchService
from guideway.producers.batch.sweeping import DAY_S
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME
from guideway.schemas.names.groups import BATCHERS_GROUP
from guideway.settings import Settings

PATIENCE_S: Final = 16.0
"""A batcher tells of its jobs every five seconds at least; where one has died, another goes on within ten."""


def batcher(settings: Settings, *, namespace: str | None = None) -> BatchService:
    """A batcher. namespace: whose jobs it takes; None: of all. Raises Refusal(broker_unreachable | invalid_setting)."""
    kept_s = settings.batch_days * DAY_S
    return BatchService(
        BatcherSettings(cluster=settings.cluster(), store=settings.store, namespace=namespace, kept_s=kept_s)
    )


def jobs_of(settings: Settings) -> Jobs:
    """Raises Refusal(broker_unreachable | invalid_setting)."""
    return Jobs(settings.answering_cluster(), settings.store)


async def deleted(settings: Settings, namespace: str, id_: str) -> Job:
    """Delete a job that has ended; returns it as it was. Raises Refusal as `Jobs.delete`, also of the store."""
    try:
        return await jobs_of(settings).delete(namespace, id_)
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the results cannot be removed from the store, {settings.store} ({error.strerror or error}): delete the "
            "job again once it can be written",
        ) from None


def job_named(text: str) -> tuple[str, str]:
    """(namespace, id) of `NAMESPACE/JOB`. Raises Refusal(invalid_setting)."""
    namespace, slash, id_ = text.strip("/").partition("/")
    if not slash or not NAME.fullmatch(namespace):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{text[:80]!r} is no job: write NAMESPACE/JOB, as `guideway batch list` has it",
        )
    return namespace, id_


async def has_batcher(settings: Settings) -> bool:
    """Whether anybody carries out batch jobs on this cluster. Who may not ask takes it that somebody does."""
    group = GroupProgress(settings.cluster(), BATCHERS_GROUP)
    try:
        return await group.members() > 0
    except KafkaError:
        return True
    finally:
        await group.stop()


class Standby:
    """Carries out the jobs of a namespace in this process, from when nobody else does."""

    def __init__(
        self,
        settings: Settings,
        namespace: str,
        *,
        say: Callable[[str], object] = lambda line: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """say: is told what a person should know. patience_s: so long nothing may be told of a job before this process
        takes part.
        """
        self._settings, self._namespace, self._say, self._patience_s = settings, namespace, say, patience_s
        self._heard_at = time.monotonic()
        self._service: BatchService | None = None
        self.is_needed = False
        """Whether this process takes part."""

    def heard(self) -> None:
        """Somebody works on the job."""
        self._heard_at = time.monotonic()

    async def run(self) -> None:
        """Until it is cancelled, or may not take part. Raises nothing: another may still carry out the job."""
        try:
            # Others may be there for other namespaces only.
            while await has_batcher(self._settings):
                rest_s = self._heard_at + self._patience_s - time.monotonic()
                if rest_s <= 0:
                    break
                await asyncio.sleep(rest_s)
            self.is_needed = True
            self._service = batcher(self._settings, namespace=self._namespace)
            await self._service.run()
        except (Refusal, KafkaError) as error:
            self.is_needed = False
            cluster = self._settings.cluster()
            why = (error if isinstance(error, Refusal) else unreachable(cluster, error, connected=True)).message
            self._say(
                f"nobody has told of this job for {self._patience_s:g} s, and this command cannot carry it out itself "
                f"({why}). It waits until `guideway batcher` runs; Ctrl-C leaves the job as it is"
            )

    def stop(self) -> None:
        """Leave the jobs to others."""
        if self._service is not None:
            self._service.stop(0.1)


@asynccontextmanager
async def standing_by(settings: Settings, namespace: str, say: Callable[[str], object]) -> AsyncIterator[Standby]:
    """While this lasts, the namespace's jobs are carried out by somebody, so far as this process may see to it."""
    standby = Standby(settings, namespace, say=say)
    running = asyncio.create_task(standby.run(), name="stand by as a batcher")
    try:
        yield standby
    finally:
        standby.stop()
        if not standby.is_needed:
            running.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.gather(running, return_exceptions=True)
        if not running.cancelled():
            running.result()


async def watched(settings: Settings, namespace: str, id_: str) -> AsyncIterator[Job]:
    """The job each time something is told of it, until it has ended. Raises Refusal(invalid_setting) without one."""
    async for job in jobs_of(settings).watch(namespace, id_):
        yield job
