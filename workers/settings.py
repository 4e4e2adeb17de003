"""Settings of a worker."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.names import LANES
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
    """Where fetched artefacts are kept, and how many bytes of them."""
    record_batches: Path | None = None
    """File to which the members of each new micro-batch are appended, one JSON line each; no texts."""
    attempts: int = 3
    """Engine deaths after which a request that was there each time is answered `engine_failed`."""
    engine_program: tuple[str, ...] = (sys.executable, "-m", "guideway.workers.engine_process")
    """`PROGRAM --fd N` speaks `workers/messages/` on socket N."""
    engine_start_timeout_s: float = 600.0
    engine_silence_s: float = 300.0
    """A busy engine that says nothing for so long is ended and started anew."""
