"""A running system for events that are refused: a broker, the endpoint service, a worker with the real model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from safetensors.numpy import save_file
from tests.conftest import environ_for
from tests.kafka.conftest import DEMO, ROOT, System

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Deletion, plan_changes
from guideway.catalogue.documents.manifest_files import read_manifests, upload
from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_consumer, make_producer, started
from guideway.infra import local_broker, topics
from guideway.infra.topic_making import make_topics
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.names import header
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.wire import REPLY
from guideway.settings import Settings
from guideway.training.sets.build import Splitting
from guideway.training.sets.document import DocumentFields
from guideway.usecases.sets.make_sets import Order, make_sets

WAIT_S = 350.0
"""For the model to be loaded, on a machine that does other things as well."""


@dataclass
class EndToEnd:
    """Sends one record and returns what came of it. A reply or dead letter is known by its correlation id."""

    system: System
    client: Client
    producer: Any
    waiting: dict[bytes, asyncio.Future[Refusal | Completed]] = field(default_factory=dict)

    async def sent(
        self,
        topic: str,
        value: bytes | None,
        headers: Mapping[str, str] | None = None,
        *,
        timestamp_ms: int | None = None,
        correlation: bytes = b"",
    ) -> Refusal | Completed:
        """What comes of a record: a reply on the endpoint's topic, or a dead letter."""
        correlation = uuid.uuid4().hex.encode() + correlation
        future = self.waiting[correlation] = asyncio.get_running_loop().create_future()
        told = [(header.CORRELATION_ID, correlation)]
        told += [(name, text.encode()) for name, text in (headers or {}).items()]
        await self.producer.send_and_wait(topic, value=value, key=b"k", headers=told, timestamp_ms=timestamp_ms)
        return await asyncio.wait_for(future, WAIT_S)

    async def refused(self, topic: str, value: bytes | None, headers: Mapping[str, str] | None = None) -> Refusal:
        """As `sent`, of a record that is refused."""
        return as_refusal(await self.sent(topic, value, headers))

    def hear(self, record: Any) -> None:
        """A record of a reply topic or a dead-letter topic."""
        headers = dict(record.headers)
        future = self.waiting.get(headers.get(header.CORRELATION_ID) or b"")
        if future is None or future.done():
            return
        if (code := headers.get(f"{header.DEAD_LETTER_PREFIX}code")) is not None:
            message = headers[f"{header.DEAD_LETTER_PREFIX}message"]
            future.set_result(Refusal(FailureCode((code or b"").decode()), (message or b"").decode()))
            return
        reply = REPLY.decode(record.value)
        future.set_result(Refusal(reply.code, reply.message) if isinstance(reply, Failed) else reply)


def as_refusal(came: Refusal | Completed) -> Refusal:
    assert isinstance(came, Refusal), f"completed: {came}"
    return came


@contextlib.asynccontextmanager
async def end_to_end_of(endpoints: Mapping[str, str]) -> AsyncIterator[EndToEnd]:
    """endpoints: manifests by name, each in one line of YAML; published as they are, for some are wrong on purpose."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as ending:
        folder = Path(place)
        broker = local_broker.up(folder / "broker", environ=environ_for("noida-db"))
        ending.callback(local_broker.down, broker.folder, wipe=True)
        # Converting the model takes half a minute: every test session of this checkout shares the outcome.
        models = ROOT / ".guideway" / "models"
        models.mkdir(parents=True, exist_ok=True)
        home = folder / "home"
        home.mkdir()
        (home / "models").symlink_to(models)
        settings = Settings(home=home, store=str(home / "store"), named=broker.cluster)
        system = System(broker.cluster, broker.kind, settings)
        await _apply(system, folder, endpoints)
        ending.callback(system.stop)
        system.start("endpoints")
        system.start("worker", "--size", "small")
        async with (
            Client(broker.cluster) as client,
            started(make_producer(broker.cluster, "test"), broker.cluster) as producer,
            started(make_consumer(broker.cluster, "test", auto_offset_reset="earliest"), broker.cluster) as consumer,
        ):
            e2e = EndToEnd(system, client, producer)
            there = await consumer.topics()
            consumer.subscribe(sorted(one for one in there if one.endswith((".out.v1", ".dlq"))))
            hearing = asyncio.create_task(_hear(e2e, consumer))
            try:
                yield e2e
            finally:
                hearing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await hearing


async def _hear(e2e: EndToEnd, consumer: Any) -> None:
    async for record in consumer:
        e2e.hear(record)


async def _apply(system: System, folder: Path, endpoints: Mapping[str, str]) -> None:
    (small,) = (one.manifest for one in read_manifests(DEMO) if isinstance(one.manifest, Model))
    await make_topics(system.cluster, topics.wanted([small]))
    await make_sets(system.settings, [_order(folder, "towns"), _order(folder, "torn")])
    store = ArtefactStore(system.settings.store)
    manifests: list[Manifest] = [small, msgspec.structs.replace(small, name="idle")]
    assert small.fingerprint is not None
    manifests += [
        one if getattr(one, "artefact", "").startswith("sha256:") else upload(folder / "manifest", one, store)
        for one in _guidance(folder, small.fingerprint)
    ]
    for name, line in endpoints.items():
        fields = {
            "kind": "endpoint/v1",
            "namespace": "shop",
            "name": name,
            "model_size": "small",
            **yaml.safe_load(line),
        }
        manifests.append(msgspec.convert(fields, Endpoint))
    await make_topics(system.cluster, topics.wanted(manifests))
    async with CatalogueFollower(system.cluster) as reader:
        await publish(system.cluster, plan_changes(reader.catalogue, manifests))
        towns, torn = (
            reader.catalogue.retrieval_set(f"shop/{name}", for_namespace="shop")[1] for name in ("towns", "torn")
        )
        other = msgspec.structs.replace(towns.embedding, fingerprint="sha256:" + "3" * 64)
        foreign = msgspec.structs.replace(towns, name="foreign-vectors", embedding=other)
        theirs = msgspec.structs.replace(towns, namespace="other", name="secret")
        await publish(system.cluster, plan_changes(reader.catalogue, [foreign, theirs]))
    await publish(system.cluster, [Deletion(Identity("endpoint", "shop", "gone"), 1, kept=True)])
    damage(store, "shop", torn.artefact, "passages.jsonl")
    damage(store, "shop", next(one.artefact for one in manifests if isinstance(one, Guidance) and one.name == "torn"))


def _order(folder: Path, name: str) -> Order:
    rows = [
        {"id": "oslo", "text": "The mayor of the town is Kari.", "town": "Oslo"},
        {"id": "bergen", "text": f"The mayor of {name} is Ole.", "town": "Bergen"},
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Order(namespace="shop", name=name, documents=[file], columns=DocumentFields(), splitting=Splitting())


def _guidance(folder: Path, fingerprint: str) -> list[Guidance]:
    for name, value in (("plain", 0.1), ("torn", 0.2)):
        (folder / name).mkdir()
        save_file(
            {"prompt_embeddings": np.full((4, 576), value, np.float32)}, folder / name / "adapter_model.safetensors"
        )
        config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
        (folder / name / "adapter_config.json").write_text(json.dumps(config))

    def soft_prompt(name: str, artefact: str, bound_to: str = fingerprint, namespace: str = "shop") -> Guidance:
        return Guidance(
            namespace=namespace, name=name, form="soft_prompt", artefact=artefact, model_fingerprint=bound_to
        )

    return [
        Guidance(namespace="shop", name="tone", form="text_prompt", text="Be friendly."),
        Guidance(namespace="other", name="theirs", form="text_prompt", text="Be theirs."),
        soft_prompt("vanished", "sha256:" + "1" * 64),
        soft_prompt("torn", "torn"),
        soft_prompt("foreign", "plain", "sha256:" + "2" * 64),
    ]


def damage(store: ArtefactStore, owner: str, digest: str, name: str = "adapter_model.safetensors") -> None:
    """Change one byte of an artefact's file."""
    listing = json.loads(Path(store.address, owner, "sha256", digest.removeprefix("sha256:")).read_text())
    file = Path(store.address, owner, "sha256", listing["files"][name].removeprefix("sha256:"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
