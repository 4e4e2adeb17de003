"""Both hops on a broker, in this process: an endpoint, the endpoint service, and workers whose engine has no model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka.structs import TopicPartition

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower, publish
from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.pipeline import as_record
from guideway.delivery.settings import DeliverySettings
from guideway.infra import topics
from guideway.producers.client.client import Client
from guideway.producers.endpoint_service import EndpointService
from guideway.schemas import names
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint, Manifest, Model
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

    bootstrap: str
    name: str
    folder: Path
    client: Client

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
                delivery=DeliverySettings(bootstrap=self.bootstrap, drain_timeout_s=drain_timeout_s, capacity=capacity),
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
        reader = make_consumer(self.bootstrap, "test", auto_offset_reset="earliest")
        found: list[Record] = []
        async with started(reader, self.bootstrap) as consumer:
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            while await consumer.position(partition) < end:
                batches = await consumer.getmany(timeout_ms=200)
                found += [as_record(record) for batch in batches.values() for record in batch]
        return found

    async def replies(self) -> list[Reply]:
        return [REPLY.decode(record.value) for record in await self.records(names.reply_topic(self.name, "task"))]

    async def cancellations(self) -> list[Record]:
        return await self.records(names.cancellation_topic(self.name))


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
    bootstrap: str, name: str, folder: Path, *, without: tuple[str, ...] = ()
) -> AsyncIterator[EndToEnd]:
    definitions = [one for one in topics.wanted(manifests(name)) if one.name not in without]
    await topics.apply(bootstrap, definitions)
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(CatalogueFollower(bootstrap))
        await reader.seen(await publish(bootstrap, plan_changes(reader.catalogue, manifests(name))))
        service = EndpointService(DeliverySettings(bootstrap=bootstrap), reader)
        running = asyncio.create_task(service.run())
        try:
            async with Client(bootstrap) as client:
                yield EndToEnd(bootstrap, name, folder, client)
        finally:
            service.pipeline.stop()
            await running
