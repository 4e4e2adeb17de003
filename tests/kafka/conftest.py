"""All of it, running: a broker of each kind, the endpoint service and a worker as processes, the real model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.conftest import ONE_OF_KINDS

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Deletion, plan_changes
from guideway.catalogue.documents.manifest_files import read_manifests, upload
from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.cli.demo.sets import FactSet, make_fact_sets
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.client.client import Client
from guideway.schemas.generation import Generation
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Boolean, Json, OutputRule, Regex, Text
from guideway.schemas.retrieval import RetrievalRule
from guideway.settings import Settings
from guideway.training.sets.build import Splitting
from guideway.training.sets.document import DocumentFields
from guideway.usecases.apply import apply_manifests
from guideway.usecases.sets.make_sets import Order, make_sets

FACTS = ("plain", "devil", "jargon")
ROOT = Path(__file__).resolve().parents[2]
FORM = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "why": {"type": "string", "maxLength": 60}},
    "required": ["mood", "why"],
    "additionalProperties": False,
}
DEMO = ROOT / "examples" / "demo" / "manifests"


@dataclass
class System:
    """A running system. Its processes are restarted by their supervisors when they are killed."""

    cluster: Cluster
    kind: str
    settings: Settings
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def batches(self) -> Path:
        """Where the worker records what its micro-batches hold."""
        return self.home / "batches.jsonl"

    @property
    def environ(self) -> dict[str, str]:
        """For commands that are to use this system."""
        return {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.cluster.brokers, "GUIDEWAY_HOME": str(self.home)}

    def start(self, name: str, *arguments: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "guideway", name, *arguments], stdout=log, stderr=log, env=self.environ
            )

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(60)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`guideway ARGUMENTS` on this system."""
        return subprocess.run(
            [sys.executable, "-m", "guideway", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module", params=ONE_OF_KINDS)
def broker(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> RunningBroker:
    """A broker, one for a module: of one kind, unless all are asked for."""
    return broker_of_kind(request.param)


@pytest.fixture(scope="module")
def system(broker: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The demo's endpoints and those of the namespace `trial`, served; one for a module and each broker kind."""
    home = tmp_path_factory.mktemp(f"home-{broker.kind}")
    # Converting the model takes half a minute: every test session of this checkout shares the outcome.
    models = ROOT / ".guideway" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models)
    made = System(broker.cluster, broker.kind, Settings(home=home, store=str(home / "store"), named=broker.cluster))
    asyncio.run(_apply(made, tmp_path_factory.mktemp("trial")))
    try:
        made.start("endpoints")
        made.start("worker", "--record-batches", str(made.batches))
        yield made
    finally:
        made.stop()


@pytest.fixture
async def client(system: System) -> AsyncIterator[Client]:
    async with Client(system.cluster) as made:
        yield made


async def _apply(system: System, folder: Path) -> None:
    demo = read_manifests(DEMO)
    facts = [
        FactSet(name=f"library/{name}", documents=f"facts/{name}.{suffix}")
        for name, suffix in (*((name, "jsonl") for name in FACTS), ("medieval", "md"), ("modern", "md"))
    ]
    await make_fact_sets(system.settings, facts, ROOT / "examples" / "data")
    await make_sets(system.settings, _sets(folder))
    await apply_manifests(system.settings, [*demo, *read_manifests(DEMO.with_name("asking"))])
    (fingerprint,) = (one.manifest.fingerprint for one in demo if isinstance(one.manifest, Model))
    assert fingerprint is not None
    store = ArtefactStore(system.settings.store)
    manifests = [
        one if getattr(one, "artefact", "").startswith("sha256:") else upload(folder / "manifest", one, store)
        for one in _trial(folder, fingerprint)
    ]
    await make_topics(system.cluster, topics.wanted(manifests))
    # Published without the check that `guideway apply` makes: some of them are wrong on purpose.
    async with CatalogueFollower(system.cluster) as reader:
        await publish(system.cluster, plan_changes(reader.catalogue, manifests))
        damaged = reader.catalogue.retrieval_set("trial/damaged", for_namespace="trial")[1]
        towns = reader.catalogue.retrieval_set("trial/towns", for_namespace="trial")[1]
        wider = msgspec.structs.replace(towns.embedding, fingerprint="sha256:" + "3" * 64, dimension=768)
        foreign = msgspec.structs.replace(towns, name="foreign-vectors", embedding=wider)
        await publish(system.cluster, plan_changes(reader.catalogue, [foreign]))
    gone = [Identity("endpoint", "trial", "gone"), Identity("set", "trial", "gone")]
    await publish(system.cluster, [Deletion(one, 1, kept=True) for one in gone])
    _damage(store, "trial", damaged.artefact, "passages.jsonl")
    _damage(store, "trial", next(one.artefact for one in manifests if one.name == "damaged"))  # type: ignore[union-attr]


def _trial(folder: Path, fingerprint: str) -> list[Manifest]:
    """Endpoints of which each is wrong, or strict, in one way."""
    for name, width in (("noise", 576), ("damaged", 576), ("narrow", 8)):
        (folder / name).mkdir()
        noise = np.full((4, width), 0.01 * len(name), np.float32)
        save_file({"prompt_embeddings": noise}, folder / name / "adapter_model.safetensors")
        config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
        (folder / name / "adapter_config.json").write_text(json.dumps(config))

    def soft_prompt(name: str, artefact: str, bound_to: str = fingerprint) -> Guidance:
        return Guidance(namespace="trial", name=name, form="soft_prompt", artefact=artefact, model_fingerprint=bound_to)

    def endpoint(name: str, output: OutputRule | None = None, **fields: object) -> Endpoint:
        plain = Endpoint(namespace="trial", name=name, model_size="small", output=output or Boolean())
        return msgspec.structs.replace(plain, **fields)

    return [
        soft_prompt("noise", "noise"),
        soft_prompt("damaged", "damaged"),
        soft_prompt("narrow", "narrow"),
        soft_prompt("vanished", "sha256:" + "1" * 64),
        soft_prompt("foreign", "noise", "sha256:" + "2" * 64),
        *(endpoint(f"with-{name}", guidance=[f"trial/{name}"]) for name in ("noise", "damaged", "narrow")),
        *(endpoint(f"with-{name}", guidance=[f"trial/{name}"]) for name in ("vanished", "foreign", "nothing")),
        *_asking(endpoint),
        endpoint("with-theirs", guidance=["reviews/sentiment-soft-prompt"]),
        endpoint("plain", Text(), generation=Generation(max_tokens=8), targets=["copies"]),
        endpoint("copies"),
        endpoint("typed", input=InputRule(fields={"text": Field(max_chars=50), "n": Field(type="integer")})),
        endpoint("unsatisfiable", Json(schema={"type": "integer", "minimum": 5, "maximum": 3})),
        endpoint("unclosed", Regex(pattern="(unclosed")),
        endpoint("cut", Regex(pattern="[a-z]{400}"), generation=Generation(max_tokens=4)),
        endpoint("long", max_text_chars=1_000_000),
        endpoint("lengthy", Regex(pattern="[a-z]{3000}"), generation=Generation(max_tokens=900)),
        endpoint("told", Text(), generation=Generation(max_tokens=200, stop=["\n\n\n"]), partial=True),
        endpoint("told-form", Json(schema=FORM), generation=Generation(max_tokens=120), partial=True),
        endpoint("told-lengthy", Regex(pattern="[a-z]{300}"), generation=Generation(max_tokens=400), partial=True),
        endpoint("drawn", Text(), generation=Generation(max_tokens=8, temperature=1.0, samples=3, seed=5)),
        endpoint("huge", model_size="huge"),
        endpoint("gone"),
    ]


def _sets(folder: Path) -> list[Order]:
    """Sets of the namespace `trial`, and one of `other` that is not shared."""
    texts = {
        "trial/switched": [{"id": f"one-{n}", "text": f"The code word of day {n} is alpha."} for n in range(20)],
        "trial/towns": [
            {"id": "oslo", "text": "The mayor of the town is Kari.", "town": "Oslo"},
            {"id": "bergen", "text": "The mayor of the town is Ole.", "town": "Bergen"},
        ],
        "trial/gone": [{"id": "a", "text": "Nobody will read this."}],
        "trial/damaged": [{"id": "a", "text": "The bytes of this will be changed."}],
        "other/secret": [{"id": "a", "text": "The secret is that there is none."}],
    }
    orders = []
    for name, rows in texts.items():
        file = folder / f"{name.replace('/', '-')}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        namespace, _, plain = name.partition("/")
        orders.append(
            Order(namespace=namespace, name=plain, documents=[file], columns=DocumentFields(), splitting=Splitting())
        )
    return orders


def _asking(endpoint: Callable[..., Endpoint]) -> list[Manifest]:
    """Endpoints that differ in what they are to do with their retrieval sets."""

    def asks(name: str, *sets: str, input_: InputRule | None = None, **rule: Any) -> Endpoint:
        short = {"generation": Generation(max_tokens=4), "input": input_ or InputRule()}
        return endpoint(name, Text(), retrieval=RetrievalRule(sets=list(sets), **rule), **short)

    in_town = InputRule(fields={"text": Field(), "town": Field(required=False)})
    return [
        *(asks(f"terms-{name}", f"library/{name}", passages=1, max_tokens=500) for name in FACTS),
        asks("all-terms", *(f"library/{name}" for name in FACTS), passages=6, max_tokens=800, min_score=0.0),
        asks("weighted", "library/plain*0.1", "library/devil", passages=1, max_tokens=500),
        asks("diverse", "library/plain", "library/devil", passages=3, max_tokens=700, diversity=0.5),
        asks("switched", "trial/switched", passages=2),
        asks("mayor", "trial/towns", passages=1, filter={"town": "town"}, input_=in_town),
        asks("strict", "trial/towns", min_score=0.9, if_none="refuse"),
        asks("frank", "trial/towns", min_score=0.9, if_none="say_so"),
        asks("silent", "trial/towns", min_score=0.9, if_none="answer_without"),
        asks("tight", "library/plain", max_tokens=5, if_none="refuse"),
        asks("open", request_sets=["library/devil"], passages=1, max_tokens=500),
        asks("of-gone", "trial/gone"),
        asks("of-damaged", "trial/damaged"),
        asks("of-other", "other/secret"),
        asks("of-foreign-vectors", "trial/foreign-vectors"),
    ]


def _damage(store: ArtefactStore, owner: str, digest: str, name: str = "adapter_model.safetensors") -> None:
    listing = json.loads(Path(store.address, owner, "sha256", digest.removeprefix("sha256:")).read_text())
    weights = Path(store.address, owner, "sha256", listing["files"][name].removeprefix("sha256:"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
