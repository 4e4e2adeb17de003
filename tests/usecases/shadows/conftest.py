"""A namespace with shadows on a broker, served by what stands in place of endpoint services and workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ONE_OF_KINDS

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replies import reply_records
from guideway.delivery.settings import DeliverySettings
from guideway.infra.local_broker import RunningBroker
from guideway.producers.client.client import Client
from guideway.producers.events.envelope import read_envelope, readable
from guideway.schemas.kinds.shadow import Shadow, ShadowChanges
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names.addresses import endpoint_address, is_trial
from guideway.schemas.names.topics import endpoint_of_topic
from guideway.schemas.output import Text
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.settings import Settings
from guideway.usecases.apply import apply_made
from guideway.usecases.shadows.service import ShadowService
from guideway.usecases.shadows.view import View, shadow_of


class Shop:
    """A namespace whose endpoints and trials answer, but for those that are `silent`."""

    def __init__(self, namespace: str, settings: Settings, reader: CatalogueFollower, caller: Client) -> None:
        self.namespace, self.settings, self.caller = namespace, settings, caller
        self._reader = reader
        self.asked: set[str] = set()
        """Those that have had an event."""
        self._silent: set[str] = set()
        self._heard = asyncio.Event()

    @property
    def cluster(self) -> Cluster:
        return self.settings.cluster()

    def silence(self, *called: str) -> None:
        """These do not answer, until others are named."""
        self._silent = {*called}
        self._heard.set()
        self._heard = asyncio.Event()

    async def apply(self, *called: str, rows: int = 5) -> None:
        """Endpoints with a shadow of all their events."""
        rule = Shadow(with_=ShadowChanges(instruction="Else."), share=1, rows=rows)
        made = [
            Endpoint(namespace=self.namespace, name=name, model_size=self.namespace, output=Text(), shadow=rule)
            for name in called
        ]
        await apply_made(self.settings, {self.namespace}, lambda _there: made)

    async def call(self, name: str, count: int = 1) -> None:
        address = endpoint_address(self.namespace, name)
        await asyncio.gather(*(self.caller.submit(address, f"{number}") for number in range(count)))

    async def until(self, name: str, is_so: Callable[[View], bool], calls: int = 0) -> View:
        """The view of this endpoint's shadow, once it is so. calls: of the endpoint, before each look."""
        async with asyncio.timeout(50):
            while not is_so(view := await shadow_of(self.settings, endpoint_address(self.namespace, name))):
                await self.call(name, calls)
                await asyncio.sleep(0.1)
        return view

    def trials(self) -> list[str]:
        """The trials that are in the catalogue."""
        return [one.name for one in self._reader.catalogue.owned("endpoint", self.namespace) if is_trial(one.name)]

    async def answer(self, record: Record) -> list[Outgoing]:
        envelope, found = read_envelope(record), endpoint_of_topic(record.topic)
        address = readable(envelope.reply_to)
        assert address is not None
        assert found is not None
        self.asked.add(found[1])
        while found[1] in self._silent:
            await self._heard.wait()
        version, _ = await self._reader.eventually(lambda catalogue: catalogue.endpoint(*found))
        reply = Completed(
            id=envelope.id,
            namespace=found[0],
            endpoint=found[1],
            endpoint_version=version,
            samples=[Sample(value="a", text="a", finish_reason="stop")],
            usage=Usage(prompt_tokens=2, output_tokens=1),
            guidance=[],
            model_fingerprint="none",
        )
        return reply_records(reply, [address], record)


@contextlib.asynccontextmanager
async def running(service: Any) -> AsyncIterator[None]:
    """While it runs."""
    task = asyncio.create_task(service.run())
    try:
        yield
    finally:
        service.stop()
        await asyncio.wait_for(task, 60)


def shadows(shop: Shop, in_flight: int = 8) -> contextlib.AbstractAsyncContextManager[None]:
    """While `guideway shadows` runs."""
    return running(ShadowService(shop.settings, [shop.namespace], in_flight=in_flight, look_s=0.1))


@pytest.fixture(scope="module", params=ONE_OF_KINDS)
def broker(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> RunningBroker:
    """A broker, one for a module: of one kind, unless all are asked for."""
    return broker_of_kind(request.param)


@pytest.fixture
async def shop(broker: RunningBroker, unique_name: str, tmp_path: Path) -> AsyncIterator[Shop]:
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=broker.cluster)
    model = Model(namespace="public", name=unique_name, source="none", fingerprint="sha256:" + "a" * 64, partitions=1)
    await apply_made(settings, {"public"}, lambda _there: [model])
    async with CatalogueFollower(broker.cluster, look_s=1) as reader, Client(broker.cluster) as caller:
        made = Shop(unique_name, settings, reader, caller)
        services = Pipeline(
            DeliverySettings(cluster=broker.cluster),
            group=unique_name,
            handle=made.answer,
            pattern=rf"^gw\.{unique_name}\.[a-z]+(-replay-(now|new))?\.in\.v1$",
        )
        async with running(services):
            yield made
            made.silence()
