"""What `guideway apply` and `delete` do to the catalogue of a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from guideway.catalogue.bounds import MAX_MANIFEST_BYTES
from guideway.catalogue.changes import Deletion, catalogue_records, plan_changes, plan_deletion
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.cli.catalogue.delete import remove
from guideway.cli.catalogue.get import found_in, identity_of
from guideway.cli.sets.questions import found_set
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import EmbeddingModel, Endpoint, Guidance, Manifest, Model, RetrievalSet
from guideway.schemas.output import Boolean
from guideway.schemas.wire import MANIFEST
from guideway.settings import Settings
from guideway.usecases.apply import apply_manifests
from guideway.usecases.packaged import SMALL


class Bench:
    def __init__(self, broker: RunningBroker, folder: Path) -> None:
        self.settings = Settings(home=folder, store=str(folder / "store"), bootstrap=broker.bootstrap)

    async def apply(self, *manifests: Manifest, most_per_broker: int = 2000) -> list[tuple[int, str]]:
        changes = await apply_manifests(
            self.settings, [Source(Path("a.yaml"), one) for one in manifests], most_per_broker=most_per_broker
        )
        return [(change.version, change.action) for change in changes]

    async def delete(self, manifest: Manifest, *versions: int, anyway: bool = False) -> None:
        def made_on(catalogue: Catalogue) -> list[Deletion]:
            identity = Identity.of(manifest)
            return plan_deletion(catalogue, identity, versions or catalogue.versions(identity))

        await remove(self.settings.brokers(), made_on, anyway=anyway)

    async def versions(self, manifest: Manifest) -> list[int]:
        async with CatalogueFollower(self.settings.brokers()) as reader:
            assert reader.catalogue.unread(Identity.of(manifest)) == []
            return reader.catalogue.versions(Identity.of(manifest))


@pytest.fixture
def bench(broker: RunningBroker, tmp_path: Path) -> Bench:
    return Bench(broker, tmp_path)


async def test_a_name_that_was_deleted_goes_on_counting(bench: Bench, unique_name: str) -> None:
    tone = Guidance(namespace=unique_name, name="tone", form="text_prompt", text="Be kind.")
    kinder = msgspec.structs.replace(tone, text="Be very kind.")
    assert await bench.apply(tone) == [(1, "created")]
    assert await bench.apply(kinder) == [(2, "updated")]
    await bench.delete(tone, 2)
    assert await bench.versions(tone) == [1]
    assert await bench.apply(kinder) == [(3, "updated")]
    await bench.delete(tone)
    assert await bench.versions(tone) == []
    assert await bench.apply(tone) == [(4, "created")]


async def test_what_endpoints_need_is_deleted_only_where_that_is_said(bench: Bench, unique_name: str) -> None:
    model = Model(namespace="public", name=unique_name, source="folder")
    tone = Guidance(namespace=unique_name, name="tone", form="text_prompt", text="Be kind.")
    endpoint = Endpoint(
        namespace=unique_name,
        name="task",
        model_size=unique_name,
        guidance=[f"{unique_name}/tone"],
        output=Boolean(),
    )
    await bench.apply(model, tone, endpoint)
    for needed, why in ((tone, "there is no guidance"), (model, "there is no model size")):
        with pytest.raises(Refusal, match=rf"1 endpoint needs it: /{unique_name}/task \(without it, {why}") as caught:
            await bench.delete(needed)
        assert caught.value.code is FailureCode.INVALID_SETTING
        assert await bench.versions(needed) == [1]
    await bench.delete(tone, anyway=True)
    assert await bench.versions(tone) == []
    await bench.delete(endpoint)
    await bench.delete(model)
    assert await bench.versions(model) == []


async def test_a_manifest_does_not_take_all_that_the_broker_has(bench: Bench, unique_name: str) -> None:
    model = Model(namespace="public", name=unique_name, source="folder")
    endpoint = Endpoint(namespace=unique_name, name="task", model_size=unique_name, output=Boolean(), partitions=1000)
    with pytest.raises(Refusal, match="would have 1000 partitions, at most 100 for each of the cluster's 1 brokers"):
        await bench.apply(model, endpoint)
    narrow = msgspec.structs.replace(endpoint, partitions=2)
    with pytest.raises(Refusal, match="raise the limit with --max-partitions"):
        await bench.apply(model, narrow, most_per_broker=10)
    assert await bench.versions(model) == [], "nothing half-applied"
    assert await bench.apply(model, narrow) == [(1, "created"), (1, "created")]


async def test_the_largest_manifest_is_applied(bench: Bench, unique_name: str) -> None:
    model = Model(namespace="public", name=unique_name, source="folder")
    large = Endpoint(
        namespace=unique_name,
        name="task",
        model_size=unique_name,
        output=Boolean(),
        input=InputRule(fields={"text": Field(required=False, default="x" * 999_000)}),
    )
    assert MAX_MANIFEST_BYTES - len(MANIFEST.encode(large)) in range(2000)
    assert await bench.apply(model, large) == [(1, "created"), (1, "created")]


def test_what_cannot_be_read_is_shown(broker: RunningBroker, unique_name: str) -> None:
    """It was passed over without a word, and an older program wrote over it."""

    async def write() -> None:
        await topics.apply(broker.bootstrap, topics.wanted([]))
        async with started(make_producer(broker.bootstrap, "test"), broker.bootstrap) as producer:
            for key, value in (
                (f"endpoint/{unique_name}/task@7", b'{"kind":"endpoint/v9"}'),
                (f"endpoint/{unique_name}/task@{'9' * 4301}", b"{}"),
            ):
                await producer.send_and_wait(names.CATALOGUE_TOPIC, key=key.encode(), value=value, partition=0)

    asyncio.run(write())

    def guideway(*arguments: str) -> str:
        environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "COLUMNS": "200"}
        command = [sys.executable, "-m", "guideway", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False).stdout

    def unread() -> list[int]:
        listed = [json.loads(line) for line in guideway("get", "--json").splitlines()]
        return [one["version"] for one in listed if one.get("what") == f"endpoint {unique_name}/task"]

    assert unread() == [7]
    assert "entries that cannot be read" in guideway("doctor")
    assert "deleted" in guideway("delete", "endpoint", f"{unique_name}/task@7")
    assert unread() == []


def test_a_fresh_broker_offers_a_model_to_try_things_out_with(tmp_path: Path) -> None:
    """The README's own endpoint was refused in a fresh folder: nobody had told where `small` comes from."""
    (tmp_path / "mood.yaml").write_text(
        "kind: endpoint/v1\nnamespace: shop\nname: mood\nmodel_size: small\noutput: {type: choice, labels: [a, b]}\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}

    def guideway(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "guideway", *arguments]
        return subprocess.run(
            command,
            env=environ | {"GUIDEWAY_HOME": str(tmp_path / "home")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    try:
        assert "model size small: SmolLM2-135M" in guideway("broker", "up").stderr
        assert "model size small" not in guideway("broker", "up").stderr, "it is there already"
        applied = guideway("apply", "-f", "mood.yaml")
        assert (applied.returncode, applied.stderr) == (0, "")
        well = guideway("doctor")
        assert "All is well." in well.stdout or well.returncode == 1, "a machine may lack cores or room"
        guideway("delete", "endpoint", "shop/mood")
        guideway("delete", "model", "small")
        refused = guideway("apply", "-f", "mood.yaml")
        assert refused.returncode == 1
        assert "there is no model size 'small': `guideway apply --with-small` adds the one" in refused.stderr
        assert guideway("apply", "--with-small", "-f", "mood.yaml").stdout.count("created") == 2
        assert "has a model size small already" in guideway("apply", "--with-small").stderr
    finally:
        guideway("broker", "down", "--wipe")


def test_the_model_that_is_offered_is_the_demos() -> None:
    demo = Path(__file__).parents[3] / "examples" / "demo" / "manifests" / "model.yaml"
    assert [one.manifest for one in read_manifests(SMALL)] == [one.manifest for one in read_manifests(demo)]


@pytest.mark.parametrize(("given", "near"), [("shop/mod", "shop/mood"), ("shopp/mood", "shop/mood"), ("q/z", None)])
def test_a_wrong_name_is_told_with_the_right_one(given: str, near: str | None) -> None:
    catalogue = Catalogue()
    mood = Endpoint(namespace="shop", name="mood", model_size="small", output=Boolean())
    [(key, value)] = catalogue_records(plan_changes(catalogue, [mood]))
    catalogue.absorb(key, value)
    with pytest.raises(Refusal) as caught:
        found_in(catalogue, identity_of("endpoint", given))
    assert ("did you mean" in caught.value.message) == (near is not None)
    assert near is None or f"did you mean {near}?" in caught.value.message


def test_a_wrong_model_size_is_told_with_the_right_one() -> None:
    catalogue = Catalogue()
    [(key, value)] = catalogue_records(
        plan_changes(catalogue, [Model(namespace="public", name="medium", source="folder")])
    )
    catalogue.absorb(key, value)
    with pytest.raises(
        Refusal, match=r"no model size 'medum': did you mean medium\? name one that is there \(medium\)"
    ):
        catalogue.model("medum")
    with pytest.raises(Refusal, match=r"no model size 'large': name one that is there \(medium\), or apply a"):
        catalogue.model("large")


def test_a_wrong_set_is_told_with_the_right_one() -> None:
    catalogue = Catalogue()
    made = RetrievalSet(
        namespace="shop",
        name="handbook",
        artefact=f"sha256:{'0' * 64}",
        passages=1,
        embedding=EmbeddingModel(source="a", fingerprint=f"sha256:{'0' * 64}", dimension=3),
    )
    [(key, value)] = catalogue_records(plan_changes(catalogue, [made]))
    catalogue.absorb(key, value)
    with pytest.raises(Refusal, match=r"no retrieval set shop/handbok: did you mean shop/handbook\?"):
        found_set(catalogue, "shop/handbok")
    with pytest.raises(Refusal, match="no retrieval set shop/handbook@7: `guideway sets list` lists all"):
        found_set(catalogue, "shop/handbook@7")
