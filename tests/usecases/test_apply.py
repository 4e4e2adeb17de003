"""What is applied and deleted, in the catalogue of a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guideway.catalogue.bounds import MAX_MANIFEST_BYTES
from guideway.catalogue.changes import Deletion, plan_deletion
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field, InputRule
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet, SetAlias
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Boolean, Json, Text
from guideway.schemas.wire import MANIFEST
from guideway.settings import Settings
from guideway.usecases.apply import How, apply_made, apply_manifests, check_alone
from guideway.usecases.delete import remove
from guideway.usecases.packaged import SMALL

DIGEST = f"sha256:{'0' * 64}"


class Bench:
    def __init__(self, broker: RunningBroker, folder: Path) -> None:
        self.settings = Settings(home=folder, store=str(folder / "store"), named=broker.cluster)

    async def apply(self, *manifests: Manifest, most_per_broker: int = 2000) -> list[tuple[int, str]]:
        changes = await apply_manifests(
            self.settings,
            [Source(Path("a.yaml"), one) for one in manifests],
            How(most_per_broker=most_per_broker),
        )
        return [(change.version, change.action) for change in changes]

    async def refused(self, *manifests: Manifest, made: bool) -> tuple[str, str]:
        """(code, message) with which they are refused: as a program makes them, or as people write them."""
        with pytest.raises(Refusal) as caught:
            await (
                apply_made(self.settings, {one.namespace for one in manifests}, lambda _: manifests)
                if made
                else self.apply(*manifests)
            )
        return caught.value.code.value, caught.value.message

    async def delete(self, manifest: Manifest, *versions: int, anyway: bool = False) -> None:
        def made_on(catalogue: Catalogue) -> list[Deletion]:
            identity = Identity.of(manifest)
            return plan_deletion(catalogue, identity, versions or catalogue.versions(identity))

        await remove(self.settings.cluster(), [Identity.of(manifest).topic], made_on, anyway=anyway)

    async def versions(self, manifest: Manifest) -> list[int]:
        async with CatalogueFollower(self.settings.cluster()) as reader:
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
    model = Model(namespace="public", name=unique_name, source="folder", fingerprint=DIGEST)
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
    model = Model(namespace="public", name=unique_name, source="folder", fingerprint=DIGEST)
    endpoint = Endpoint(namespace=unique_name, name="task", model_size=unique_name, output=Boolean(), partitions=1000)
    with pytest.raises(Refusal, match="would have 1000 partitions, at most 100 for each of the cluster's 1 brokers"):
        await bench.apply(model, endpoint)
    narrow = msgspec.structs.replace(endpoint, partitions=2)
    with pytest.raises(Refusal, match="raise the limit with --max-partitions"):
        await bench.apply(model, narrow, most_per_broker=10)
    assert await bench.versions(model) == [], "nothing half-applied"
    assert await bench.apply(model, narrow) == [(1, "created"), (1, "created")]


@pytest.mark.parametrize(
    ("changes", "code", "hint"),
    [
        ({"partitions": 1000}, "invalid_setting", "endpoint /NAME/task: the topic gw.NAME.task.in.v1 would have 1000"),
        ({"model_size": "nowhere"}, "invalid_manifest", "no model size 'nowhere'"),
        ({"guidance": ["other/tone"]}, "invalid_manifest", "no guidance other/tone"),
        ({"calibration": "contextual", "output": Text()}, "invalid_manifest", "has no labels"),
        ({"input": InputRule(template="{{ nothing }}")}, "invalid_manifest", "nothing"),
    ],
)
async def test_an_endpoint_is_refused_whoever_made_it(
    bench: Bench, unique_name: str, changes: dict[str, Any], code: str, hint: str
) -> None:
    model = Model(namespace="public", name=unique_name, source="folder", fingerprint=DIGEST)
    endpoint = Endpoint(namespace=unique_name, name="task", model_size=unique_name, output=Boolean())
    wrong = msgspec.structs.replace(endpoint, **changes)
    refused = await bench.refused(model, wrong, made=False)
    assert refused == await bench.refused(model, wrong, made=True)
    assert refused[0] == code
    assert hint.replace("NAME", unique_name) in refused[1]
    assert await bench.versions(model) == [], "nothing half-applied"


async def test_what_is_not_to_be_had_is_refused_whoever_made_it(bench: Bench, unique_name: str) -> None:
    digest = DIGEST
    (bench.settings.home / "config.json").write_text('{"model_type": "bloom"}')
    embedding = EmbeddingModel(source="a", fingerprint=digest, dimension=3)
    for manifest, hint in (
        (
            RetrievalSet(namespace=unique_name, name="facts", artefact=digest, passages=1, embedding=embedding),
            "no version of the set has this artefact",
        ),
        (SetAlias(namespace=unique_name, name="facts", version=1), f"the set {unique_name}/facts has no version 1"),
        (
            Guidance(namespace=unique_name, name="tone", form="lora", artefact=digest, model_fingerprint=digest),
            "not a digest",
        ),
        (
            Guidance(namespace=unique_name, name="tone", form="lora", artefact="/nowhere", model_fingerprint=digest),
            "/nowhere",
        ),
        (Model(namespace="public", name=unique_name, source=str(bench.settings.home)), "ALiBi"),
    ):
        refused = await bench.refused(manifest, made=False)
        assert refused == await bench.refused(manifest, made=True)
        assert hint in refused[1]
        assert await bench.versions(manifest) == []


def test_a_rule_that_would_take_the_library_hours_is_refused_in_seconds() -> None:
    """Worse than too slow for people: the service of shadows checks trials of all teams in the same way."""
    patterns = [{"type": "string", "pattern": f"(a|b)*a(a|b){{{number}}}"} for number in range(20)]
    endpoint = Endpoint(namespace="team", name="task", model_size="small", output=Json({"allOf": patterns}))
    with pytest.raises(Refusal, match=r"output\.schema: it takes too long, or too much memory"):
        check_alone([Source(Path("a.yaml"), endpoint)])


async def test_the_largest_manifest_is_applied(bench: Bench, unique_name: str) -> None:
    model = Model(namespace="public", name=unique_name, source="folder", fingerprint=DIGEST)
    large = Endpoint(
        namespace=unique_name,
        name="task",
        model_size=unique_name,
        output=Boolean(),
        input=InputRule(fields={"text": Field(required=False, default="x" * 999_000)}),
    )
    assert MAX_MANIFEST_BYTES - len(MANIFEST.encode(large)) in range(2000)
    assert await bench.apply(model, large) == [(1, "created"), (1, "created")]


def test_the_model_that_is_offered_is_the_demos() -> None:
    demo = Path(__file__).parents[2] / "examples" / "demo" / "manifests" / "model.yaml"
    assert [one.manifest for one in read_manifests(SMALL)] == [one.manifest for one in read_manifests(demo)]


async def test_two_that_publish_at_once_get_a_version_each(bench: Bench, unique_name: str) -> None:
    def prompt(text: str) -> Guidance:
        return Guidance(namespace=unique_name, name="tone", form="text_prompt", text=text)

    texts = ("Be kind.", "Be brief.")
    ends = await asyncio.gather(
        *(apply_made(bench.settings, [unique_name], lambda _, t=t: [prompt(t)]) for t in texts)  # type: ignore[misc]
    )
    assert sorted(change.version for [change] in ends) == [1, 2]
    async with CatalogueFollower(bench.settings.cluster()) as reader:
        for [change] in ends:
            assert reader.catalogue.get(change.identity, change.version) == change.manifest
