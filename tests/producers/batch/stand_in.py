"""Stands in for endpoint services and workers: answers the rows of batch jobs, exactly once each, as they ask for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replies import failed, reply_records
from guideway.delivery.settings import DeliverySettings
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.producers.batch.files.row import BadRow, BatchRow, Position
from guideway.producers.batch.jobs import Job, Jobs
from guideway.producers.batch.service import BatcherSettings, BatchService
from guideway.producers.events.envelope import read_envelope, readable
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.topics import batch_call_topic
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.services.batch import BatchJob
from guideway.settings import Settings


class Answering:
    """Answers each row with its own text in capitals; a text that begins with `!` says something else."""

    def __init__(self, cluster: Cluster, namespace: str, group: str) -> None:
        self.asked: Counter[str] = Counter()
        """How often each text was asked."""
        self.cancelled: list[str] = []
        self.held = asyncio.Event()
        """While it is not set, texts that begin with `!wait` have no answer."""
        self.seconds = 0.0
        """How long it takes over each."""
        self.pipeline = Pipeline(
            DeliverySettings(cluster=cluster, capacity=4096, partition_capacity=4096),
            group=group,
            topics=[batch_call_topic(namespace)],
            handle=self._handle,
        )

    async def _handle(self, record: Record) -> list[Outgoing]:
        envelope = read_envelope(record)
        if envelope.cancels is not None:
            self.cancelled.append(envelope.cancels)
            return []
        assert record.value is not None
        text = json.loads(record.value)["text"] if record.value.startswith(b"{") else record.value.decode()
        self.asked[text] += 1
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if text.startswith("!wait"):
            await self.held.wait()
        address = readable(envelope.reply_to)
        assert address is not None
        namespace, name = (record.header(header.ENDPOINT) or b"").decode()[1:].split("/")
        if text.startswith("!full") and self.asked[text] < 2:
            refusal = Refusal(FailureCode.INTERNAL_ERROR, "it may go well the next time")
            return reply_records(failed(envelope.id, namespace, name, refusal), [address], record)
        if text.startswith("!fail"):
            refusal = Refusal(FailureCode.OUTPUT_INCOMPLETE, "raise max_tokens")
            return reply_records(failed(envelope.id, namespace, name, refusal), [address], record)
        reply = Completed(
            id=envelope.id,
            namespace=namespace,
            endpoint=name,
            endpoint_version=1,
            samples=[Sample(value=text.upper(), text=text.upper(), finish_reason="stop")],
            usage=Usage(prompt_tokens=2, output_tokens=1),
            guidance=[],
            model_fingerprint="none",
        )
        return reply_records(reply, [address], record)


@contextlib.asynccontextmanager
async def answering(
    cluster: Cluster, namespace: str, *, group: str = "", make: bool = True
) -> AsyncIterator[Answering]:
    """make: the topics, too."""
    if make:
        await make_topics(cluster, topics.batches(namespace))
    made = Answering(cluster, namespace, group or f"{namespace}.answering")
    running = asyncio.create_task(made.pipeline.run())
    try:
        yield made
    finally:
        made.held.set()
        made.pipeline.stop(2)
        await asyncio.wait_for(running, 30)


@contextlib.asynccontextmanager
async def batcher(cluster: Cluster, store: Path, jobs: int = 32) -> AsyncIterator[BatchService]:
    service = BatchService(BatcherSettings(cluster=cluster, store=str(store), jobs=jobs))
    running = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.stop()
        await asyncio.wait_for(running, 30)


def rows(texts: Iterator[str] | list[str], namespace: str, endpoint: str = "echo") -> Iterator[BatchRow | BadRow]:
    """Rows of these texts; one that is empty is a bad row."""
    for line, text in enumerate(texts, start=1):
        if not text:
            yield BadRow(
                line=line,
                last_line=line,
                id=None,
                code=FailureCode.INVALID_DATA,
                message="the line is no JSON",
                next=Position(),
            )
            continue
        yield BatchRow(
            line=line,
            id=f"r{line}",
            endpoint=f"/{namespace}/{endpoint}",
            content=json.dumps({"text": text}).encode(),
            content_type="application/json",
            next=Position(),
        )


async def end_of(jobs: Jobs, namespace: str, job: BatchJob | str, within_s: float = 60) -> Job:
    id_ = job if isinstance(job, str) else job.id
    async with asyncio.timeout(within_s):
        told = [one async for one in jobs.watch(namespace, id_)]
    assert told[-1].ended is not None
    return told[-1]


def lines(jobs: Jobs, namespace: str, job: Job) -> tuple[list[Any], list[Any]]:
    """(what the output holds, what the errors)."""
    assert job.ended is not None
    folder, found = jobs.folder(namespace, job.job.id), []
    for name in (job.ended.output, job.ended.errors):
        with folder.reading(name) as file:
            found.append([json.loads(line) for line in file])
    return found[0], found[1]


async def _main(namespace: str) -> None:
    cluster = Settings.from_environ().cluster()
    async with answering(cluster, namespace) as made:
        made.seconds = 0.002
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
