"""A worker that is told to stop before it serves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.manifests import Model
from guideway.workers import worker
from guideway.workers.messages.to_engine import EngineSettings
from guideway.workers.settings import WorkerSettings


class Nothing:
    """In place of what needs a broker."""

    def __init__(self, *_: object) -> None:
        model = Model(namespace="public", name="small", source="loads for ever")
        self.catalogue = SimpleNamespace(model=lambda _: model)

    async def __aenter__(self) -> Nothing:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> worker.Worker:
    for name in ("CatalogueFollower", "CancellationFollower"):
        monkeypatch.setattr(worker, name, Nothing)
    return worker.Worker(
        WorkerSettings(
            size="small",
            delivery=DeliverySettings(cluster=Cluster("nowhere:1")),
            engine=EngineSettings(),
            store=str(tmp_path),
            artefact_cache=ArtefactCache(tmp_path),
            engine_program=(sys.executable, str(Path(__file__).with_name("fake_engine.py"))),
        )
    )


async def test_a_model_that_is_being_loaded_is_not_waited_for(made: worker.Worker) -> None:
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    assert not await ended(running, 0.5)
    made.stop()
    assert await ended(running, 20)
    await running


async def test_who_is_stopped_before_it_begins_does_not_begin(made: worker.Worker) -> None:
    made.stop()
    await asyncio.wait_for(made.run(), 20)


async def test_who_cancels_it_is_told(made: worker.Worker) -> None:
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def ended(task: asyncio.Task[Any], timeout_s: float) -> bool:
    done, _ = await asyncio.wait([task], timeout=timeout_s)
    return bool(done)
