"""The services of guideway, made from the settings of this machine: endpoint service, worker, trainer, steward."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.settings import DeliverySettings
from guideway.infra.rights.hidden import holds_rights
from guideway.infra.rights.spaces import fixed_topics
from guideway.infra.topic_making import make_topics
from guideway.producers.endpoint_service import EndpointService
from guideway.producers.intake.shares import QUEUE
from guideway.producers.targets.webhooks.egress import egress_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import PUBLIC
from guideway.schemas.names.topics import LANES
from guideway.settings import Settings
from guideway.training.jobs.service import JobService, TrainerSettings
from guideway.usecases.extras import importing
from guideway.usecases.retrieval import retrieval_settings
from guideway.usecases.rights.steward import Steward
from guideway.usecases.rights.trail_service import TrailService

if TYPE_CHECKING:
    from guideway.producers.targets.service import TargetsService
    from guideway.workers.worker import Worker


@asynccontextmanager
async def endpoint_service(settings: Settings, *, flush_s: float, queue: int) -> AsyncIterator[EndpointService]:
    """An endpoint service that follows the catalogue.

    flush_s: seconds at least in which results gather for one transaction. queue: requests of a lane that may wait for
    or be in each worker. Raises Refusal(broker_unreachable | invalid_setting).
    """
    delivery = DeliverySettings(cluster=settings.cluster(), capacity=256, flush_interval_s=flush_s)
    async with CatalogueFollower(delivery.cluster) as reader:
        yield EndpointService(delivery, reader, queue=queue)


@asynccontextmanager
async def targets(settings: Settings) -> AsyncIterator[TargetsService]:
    """A service by which results leave Kafka. Raises Refusal(broker_unreachable | invalid_setting)."""
    with importing("targets"):
        # An archive may become Parquet at any time, and nobody would be told then.
        import pyarrow  # type: ignore[import-untyped]  # noqa: F401

        from guideway.producers.targets.service import TargetsService, TargetsSettings

    made = TargetsSettings(
        delivery=DeliverySettings(cluster=settings.cluster()),
        secrets=settings.secrets,
        store=settings.store,
        egress=egress_of(settings.egress),
    )
    async with CatalogueFollower(made.delivery.cluster) as reader:
        yield TargetsService(made, reader)


def worker(
    settings: Settings,
    *,
    size: str,
    lanes: Sequence[str] = LANES,
    rows: int = 16,
    device: str = "cpu",
    threads: int = 0,
    record_batches: Path | None = None,
) -> Worker:
    """A worker of one model size. rows: in one micro-batch. threads: of torch; 0: torch's choice.

    record_batches: a file to which what each micro-batch held is appended.
    Raises Refusal(broker_unreachable | invalid_setting), the latter for what is no lane or is not installed.
    """
    with importing("worker"):
        from guideway.workers.messages.to_engine import EngineSettings
        from guideway.workers.settings import WorkerSettings
        from guideway.workers.worker import Worker

    if not set(lanes) <= set(LANES):
        raise Refusal(FailureCode.INVALID_SETTING, f"lanes are {', '.join(LANES)}, not {','.join(lanes)}")
    return Worker(
        WorkerSettings(
            size=size,
            lanes=tuple(lanes),
            # As many as the endpoint service lets wait: the engine is fair between the requests that a worker holds; a
            # topic is not. At its end a worker holds more than it can finish; it is usually granted 30 s.
            delivery=DeliverySettings(
                cluster=settings.cluster(), capacity=max(4 * QUEUE, 8 * rows), drain_timeout_s=20
            ),
            engine=EngineSettings(max_rows=rows, device=device, threads=threads, model_cache=str(settings.model_cache)),
            retrieval=retrieval_settings(settings),
            store=settings.store,
            artefact_cache=settings.artefact_cache,
            record_batches=record_batches,
        )
    )


async def trainer(
    settings: Settings, *, jobs: Path | None = None, data: Path | None = None, device: str = "cpu"
) -> JobService:
    """A trainer.

    jobs: folder of all jobs, on storage that trainers share; default: `jobs` in GUIDEWAY_HOME. data: see
    `TrainerSettings.data`; it must be named on a cluster with rights.
    Raises Refusal(broker_unreachable | invalid_setting), the latter where `jobs` can be no folder.
    """
    cluster = settings.cluster()
    folder = (jobs or settings.home / "jobs").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"--jobs, {folder}, can be no folder ({error.strerror}): name another place"
        ) from None
    if data is None and await holds_rights(cluster):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "jobs of all namespaces could read every file of this machine: name with --data a folder in which each "
            "namespace has a folder of its own, for what its jobs may read",
        )
    command = (sys.executable, "-m", "guideway.usecases.studio.job_process")
    return JobService(TrainerSettings(cluster=cluster, jobs=folder, data=data, command=command, device=device))


@dataclass(frozen=True)
class Stewardship:
    """What a steward's process runs."""

    keeping: Steward
    trail: TrailService

    async def run(self) -> None:
        """Until `stop`. Raises Refusal(broker_unreachable) at the start."""
        keeping = asyncio.create_task(self.keeping.run(), name="steward")
        try:
            await self.trail.pipeline.run()
        finally:
            self.keeping.stop()
            await keeping

    def stop(self, within_s: float | None = None) -> None:
        """End `run`; what is not in the trail yet is left to the next steward."""
        self.keeping.stop(within_s)
        self.trail.pipeline.stop(within_s)


@asynccontextmanager
async def steward(settings: Settings, *, replication: int | None = None) -> AsyncIterator[Stewardship]:
    """A steward, and the trail that it keeps, which follow the catalogues.

    replication: copies of the topics that it makes. Raises Refusal(broker_unreachable | not_allowed | invalid_setting).
    """
    cluster = settings.cluster()
    await make_topics(cluster, fixed_topics(PUBLIC), replication=replication)
    async with CatalogueFollower(cluster) as reader:
        keeping = Steward(cluster, reader, replication=replication)
        # Once before anything else: whoever may not do this learns it at the start.
        await keeping.keep()
        yield Stewardship(keeping, TrailService(cluster, reader, keeping.writers))
