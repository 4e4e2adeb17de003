"""A disk that reads guidance only when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from guideway.workers.engine.guidance.lora import Lora

TIMEOUT_S = 30.0


class Disk:
    """Reads LoRAs only when told to, and counts them."""

    def __init__(self, read: Callable[[Path, PreTrainedModel, str | None], Lora]) -> None:
        self.may_read = threading.Event()
        self.count = 0
        self._read = read

    def load(self, folder: Path, model: PreTrainedModel, digest: str | None = None) -> Lora:
        assert self.may_read.wait(TIMEOUT_S)
        self.count += 1
        return self._read(folder, model, digest)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(Lora.load)
    monkeypatch.setattr(Lora, "load", disk.load)
    yield disk
    disk.may_read.set()
