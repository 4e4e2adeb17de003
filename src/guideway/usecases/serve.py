"""The services of guideway, made from the settings of this machine: the endpoint service, a worker, a trainer."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.settings import DeliverySettings
from guideway.infra import topics
from guideway.producers.endpoint_service import EndpointService
from guideway.producers.intake.shares import QUEUE
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import LANES
from guideway.settings import Settings
from guideway.training.jobs.service import JobService, TrainerSettings
from guideway.usecases.extras import importing
from guideway.usecases.retrieval import retrieval_settings

if TYPE_CHECKING:
    from guideway.workers.worker import Worker


@asynccontextmanager
async def endpoint_service(settings: Settings, *, flush_s: float, queue: int) -> AsyncIterator[EndpointService]:
    """An endpoint service that follows the catalogue.

    flush_s: seconds at least in which results gather for one transaction. queue: requests of a lane that may wait for
    or be in each worker. Raises Refusal(broker_unreachable | invalid_setting).
    """
    delivery = DeliverySettings(bootstrap=settings.brokers(), capacity=256, flush_interval_s=flush_s)
    async with CatalogueFollower(delivery.bootstrap) as reader:
        yield EndpointService(delivery, reader, queue=queue)


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
                bootstrap=settings.brokers(), capacity=max(4 * QUEUE, 8 * rows), drain_timeout_s=20
            ),
            engine=EngineSettings(max_rows=rows, device=device, threads=threads, model_cache=str(settings.model_cache)),
            retrieval=retrieval_settings(settings),
            store=settings.store,
            artefact_cache=settings.artefact_cache,
            record_batches=record_batches,
        )
    )


async def trainer(settings: Settings, *, jobs: Path | None = None, device: str = "cpu") -> JobService:
    """A trainer, and the topics that it reads.

    jobs: folder of all jobs, on storage that trainers share; default: `jobs` in GUIDEWAY_HOME.
    Raises Refusal(broker_unreachable | invalid_setting), the latter where `jobs` can be no folder.
    """
    bootstrap = settings.brokers()
    folder = (jobs or settings.home / "jobs").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"--jobs, {folder}, can be no folder ({error.strerror}): name another place"
        ) from None
    await topics.apply(bootstrap, topics.training())
    command = (sys.executable, "-m", "guideway.usecases.studio.job_process")
    return JobService(TrainerSettings(bootstrap=bootstrap, jobs=folder, command=command, device=device))
