"""Gateways that make jobs of accepted batches, without brokers."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from guideway.catalogue.entries import Catalogue, Identity
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.batch.jobs import Job, Jobs
from guideway.producers.gateway.batches.accepted import AcceptedBatch, AcceptedStore, Ask, NotMade, Standing
from guideway.producers.gateway.batches.file_store import FileStore
from guideway.producers.gateway.batches.job_list import JobList
from guideway.producers.gateway.batches.making import Making
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.services.batch import BatchJob
from guideway.schemas.wire import BATCH_JOB, BATCH_WISH, MANIFEST

SHOP, ID = "shop", "batch-1"
BEGIN_MS = (int(time.time()) - 60) * 1000
END_MS = BEGIN_MS + 86_400_000
GOOD = b'{"id": "a", "text": "Hello"}\n{"id": "b", "text": "Bye"}\n'


class Topics(Jobs):
    """What is published stands here."""

    def __init__(self, store: str) -> None:
        super().__init__(Cluster("localhost:1"), store)
        self.published: list[BatchJob] = []
        self.cancelled: list[str] = []
        self.away = 0
        """So many times the brokers do not answer."""

    async def list(self, namespace: str) -> list[Job]:
        return [Job(namespace=namespace, job=one) for one in self.published]

    async def _send(self, topic: str, key: str, value: bytes) -> None:
        if self.away:
            self.away -= 1
            raise Refusal(FailureCode.BROKER_UNREACHABLE, "they are away")
        if topic.endswith("cancel.v1"):
            self.cancelled.append(BATCH_WISH.decode(value).job)
        else:
            self.published.append(BATCH_JOB.decode(value))


class Stage:
    def __init__(self, path: Path) -> None:
        self.jobs = Topics(str(path))
        self.files = FileStore(str(path), most_files=10, most_bytes=10**9)
        self.accepted = AcceptedStore(str(path))
        catalogue, endpoint = Catalogue(), Endpoint(namespace=SHOP, name="write", model_size="small", output=Text())
        catalogue.absorb(Identity.of(endpoint).topic, Identity.of(endpoint).key(1), MANIFEST.encode(endpoint))
        self.gateway: Any = SimpleNamespace(
            settings=SimpleNamespace(kept_s=30 * 86_400),
            catalogue_reader=SimpleNamespace(catalogue=catalogue),
            calls=SimpleNamespace(require_topics=self._has_topics),
        )

    async def _has_topics(self, *_: object) -> None: ...

    def accept(self, content: bytes, *, name: str = "rows.jsonl", deadline_ms: int = END_MS, id_: str = ID) -> None:
        about = self.files.put(SHOP, io.BytesIO(content), len(content), name, None)
        ask = Ask(input_file_id=about.id, endpoint="/shop/write", completion_window="24h", metadata={"for": "us"})
        self.accepted.put(SHOP, AcceptedBatch(id=id_, ask=ask, created_ms=BEGIN_MS, deadline_ms=deadline_ms))

    @asynccontextmanager
    async def gateways(self, count: int = 1) -> AsyncIterator[list[Making]]:
        made = [Making(self.gateway, self.accepted, self.files, self.jobs, JobList(self.jobs)) for _ in range(count)]
        running = [asyncio.create_task(one.run()) for one in made]
        try:
            yield made
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def until_over(self) -> Standing | None:
        async with asyncio.timeout(10):
            while (one := self.accepted.one(SHOP, ID)) is not None and one.ended is None:
                await asyncio.sleep(0.005)
        return one

    async def ended(self) -> NotMade:
        one = await self.until_over()
        assert one is not None
        assert one.ended is not None
        return one.ended
