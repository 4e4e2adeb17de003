"""The batch jobs of namespaces, read from Kafka once a second at most, however many ask."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from guideway.producers.batch.jobs import Job, Jobs

_FRESH_S: Final = 1.0
_KEPT: Final = 256
"""Of so many namespaces the list is kept."""


class JobList:
    """Owner of the lists that are kept."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._kept: dict[str, tuple[float, list[Job]]] = {}
        self._reading: dict[str, asyncio.Task[list[Job]]] = {}

    async def of(self, namespace: str) -> list[Job]:
        """The jobs, the latest last. Raises Refusal: broker_unreachable, not_allowed."""
        kept = self._kept.get(namespace)
        if kept is not None and time.monotonic() - kept[0] < _FRESH_S:
            return kept[1]
        reading = self._reading.get(namespace)
        if reading is None:
            reading = self._reading[namespace] = asyncio.create_task(self._read(namespace), name="batch jobs are read")
        # One caller that leaves takes nothing from the others.
        return await asyncio.shield(reading)

    async def job(self, namespace: str, id_: str) -> Job | None:
        """One of them, also where another gateway has made it a moment ago. Raises as `of`."""
        asked = time.monotonic()
        while True:
            found = next((one for one in await self.of(namespace) if one.job.id == id_), None)
            kept = self._kept.get(namespace)
            if found is not None or kept is None or kept[0] >= asked:
                return found
            self.changed(namespace)

    def changed(self, namespace: str) -> None:
        """Something was published: what is kept is old."""
        self._kept.pop(namespace, None)
        self._reading.pop(namespace, None)

    async def _read(self, namespace: str) -> list[Job]:
        mine = asyncio.current_task()
        began = time.monotonic()
        try:
            found = await self._jobs.list(namespace)
            if self._reading.get(namespace) is mine:
                self._kept.pop(namespace, None)
                self._kept[namespace] = began, found
                if len(self._kept) > _KEPT:
                    del self._kept[next(iter(self._kept))]
            return found
        finally:
            if self._reading.get(namespace) is mine:
                del self._reading[namespace]
