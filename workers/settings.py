"""Settings of a worker."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.names.topics import LANES
from guideway.workers.messages.to_engine import EngineSettings
from guideway.workers.retrieval.settings import RetrievalSettings


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One worker: which model size, which lanes, and the bounds of its parts."""

    size: str
    lanes: tuple[str, ...] = LANES
    delivery: DeliverySettings
    engine: EngineSettings
    retrieval: RetrievalSettings = RetrievalSettings()
    store: str
    """Address of the artefact store, for fsspec."""
    artefact_cache: ArtefactCache
    """Where the worker keeps fetched artefacts, and at most how many bytes."""
    record_batches: Path | None = None
    """File to which the worker appends one JSON line for each new micro-batch: its members, without texts."""
    attempts: int = 3
    """A request gets `engine_failed` after so many deaths of the engine, if it was in the engine each time."""
    engine_program: tuple[str, ...] = (sys.executable, "-m", "guideway.workers.engine_process")
    """`PROGRAM --fd N` speaks `workers/messages/` on socket N."""
    engine_start_timeout_s: float = 600.0
    """The engine must be ready so many seconds after its start."""
    engine_silence_s: float = 300.0
    """A busy engine that sends nothing for so many seconds is ended and started again."""
