"""Both hops on a broker, in this process: an endpoint, the endpoint service, and workers whose engine has no model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka.structs import TopicPartition

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import as_record, make_consumer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import DeliverySettings
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.producers.client.client import Client
from guideway.producers.endpoint_service import EndpointService
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names.topics import cancellation_topic, reply_topic
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.reply import Reply
from guideway.schemas.wire import REPLY
from guideway.workers.messages.to_engine import EngineSettings
from guideway.workers.settings import WorkerSettings
from guideway.workers.worker import Worker

ENGINE = (sys.executable, str(Path(__file__).with_name("fake_engine.py")))


@dataclass
class EndToEnd:
    """An endpoint `/NAME/task` of a model size NAME; the endpoint service runs, workers do when they are asked for."""

    cluster: Cluster
    name: str
    folder: Path
    client: Client
    reader: CatalogueFollower
    """The endpoint service's."""

    @property
    def address(self) -> str:
        return f"/{self.name}/task"

    def submit(self, text: str, request_id: str | None = None) -> asyncio.Task[Reply]:
        return asyncio.create_task(self.client.submit(self.address, text, request_id=request_id, timeout_s=60))

    @asynccontextmanager
    async def worker(
        self, *, drain_timeout_s: float = 30, capacity: int = 64, cancelled: bool = False
    ) -> AsyncIterator[Worker]:
        """On exit it is told to stop, or its task is `cancelled`."""
        made = Worker(
            WorkerSettings(
                size=self.name,
                delivery=DeliverySettings(cluster=self.cluster, drain_timeout_s=drain_timeout_s, capacity=capacity),
                engine=EngineSettings(),
                store=str(self.folder / "store"),
                artefact_cache=ArtefactCache(self.folder / "artefacts"),
                engine_program=ENGINE,
            )
        )
        running = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            if cancelled:
                running.cancel()
                await asyncio.wait({running})
            else:
                made.stop()
                await running

    async def records(self, topic: str, number: int = 0) -> list[Record]:
        """All committed records that one partition of the topic holds now."""
        partition = TopicPartition(topic, number)
        reader = make_consumer(self.cluster, "test", auto_offset_reset="earliest")
        found: list[Record] = []
        async with started(reader, self.cluster) as consumer:
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            while await consumer.position(partition) < end:
                batches = await consumer.getmany(timeout_ms=200)
                found += [as_record(record) for batch in batches.values() for record in batch]
        return found

    async def all_replies(self, topic: str) -> list[Reply]:
        """All replies on a reply topic of one partition."""
        return [REPLY.decode(record.value) for record in await self.records(topic)]

    async def replies(self) -> list[Reply]:
        return [REPLY.decode(record.value) for record in await self.records(reply_topic(self.name, "task"))]

    async def cancellations(self) -> list[Record]:
        return await self.records(cancellation_topic(self.name))


async def until(ask: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not await ask():
            await asyncio.sleep(0.05)


def manifests(name: str) -> list[Manifest]:
    return [
        Model(namespace="public", name=name, source="fine", partitions=2),
        Endpoint(namespace=name, name="task", model_size=name, output=Text()),
        Endpoint(
            namespace=name,
            name="mean",
            model_size=name,
            output=Text(),
            input=InputRule(fields={"n": Field(type="array")}, template="{avg(n)}", text_field=None),
        ),
    ]


@asynccontextmanager
async def end_to_end_of(
    cluster: Cluster, name: str, folder: Path, *, without: tuple[str, ...] = (), more: Sequence[Manifest] = ()
) -> AsyncIterator[EndToEnd]:
    """more: manifests beside the usual ones; of an endpoint with the same name, in place of it."""
    applied = {Identity.of(one): one for one in [*manifests(name), *more]}.values()
    definitions = [one for one in topics.wanted(applied) if one.name not in without]
    await make_topics(cluster, definitions)
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(CatalogueFollower(cluster))
        await reader.seen(await publish(cluster, plan_changes(reader.catalogue, list(applied))))
        service = EndpointService(DeliverySettings(cluster=cluster), reader)
        running = asyncio.create_task(service.run())
        try:
            async with Client(cluster) as client:
                yield EndToEnd(cluster, name, folder, client, reader)
        finally:
            service.pipeline.stop()
            await running
