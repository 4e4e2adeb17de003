"""From manifests as people write them to rows that run: every form of guidance, without a broker."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.workers.engine.conftest import MakeArtefact, MakeEngine, ends, run, text_of

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import Altered
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.documents import manifest_files
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.checks.check import check_manifests
from guideway.producers.marshalling.marshal import marshal
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.request import GuidanceRef, ReplyAddress
from guideway.schemas.wire import MANIFEST, REQUEST
from guideway.workers.guidance.artefact_fetch import ArtefactFetch
from guideway.workers.guidance.guidance_fetch import GuidanceFetch
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import BatchReport, Finished
from guideway.workers.messages.to_engine import Admit, Artefact

FINGERPRINT = "sha256:" + "0" * 64
MODEL = f"kind: model/v1\nnamespace: public\nname: small\nsource: somewhere\nfingerprint: {FINGERPRINT}\n"
ENDPOINT = """
kind: endpoint/v1
namespace: team
name: task
model_size: small
guidance: [team/lora*-0.5, team/prefix, team/ia3@1, team/soft-prompt, team/inserted-layer]
output: {type: text}
generation: {max_tokens: 6}
"""
FORMS = ("soft_prompt", "prefix", "lora", "ia3", "inserted_layer")


def guidance(form: str) -> str:
    name = form.replace("_", "-")
    return (
        f"kind: guidance/v1\nnamespace: team\nname: {name}\nform: {form}\n"
        f"artefact: {name}\nmodel_fingerprint: {FINGERPRINT}\n"
    )


@pytest.fixture
def folder(
    tmp_path: Path,
    make_soft_prompt: MakeArtefact,
    make_prefix: MakeArtefact,
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> Path:
    """Manifests and artefacts as a team keeps them."""
    folder = tmp_path / "manifests"
    makers = (make_soft_prompt, make_prefix, make_lora, make_ia3, make_inserted_layer)
    for form, make in zip(FORMS, makers, strict=True):
        shutil.copytree(make(f"team/{form}@1").folder, folder / form.replace("_", "-"))
    (folder / "all.yaml").write_text("\n---\n".join([MODEL, ENDPOINT, *map(guidance, FORMS)]))
    return folder


async def test_every_form_comes_through(folder: Path, tmp_path: Path, make_engine: MakeEngine) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    found = [manifest_files.upload(one.path, one.manifest, store) for one in manifest_files.read_manifests(folder)]
    reader = CatalogueFollower(Cluster("no broker"))
    check_manifests(found, reader.catalogue)
    for change in plan_changes(reader.catalogue, found):
        reader.catalogue.absorb(
            change.identity.topic, change.identity.key(change.version), MANIFEST.encode(change.manifest)
        )
    version, endpoint = reader.catalogue.endpoint("team", "task")
    address = ReplyAddress(topic="gw.team.task.out.v1")
    event = Event(id="e", content="hello")
    request = marshal(event, endpoint, version, reader.catalogue, reply_to=[address], written_ms=0, now_ms=0)
    request = REQUEST.decode(REQUEST.encode(request))
    assert request.guidance[0].scale == -0.5
    fetch = GuidanceFetch(reader, ArtefactFetch(store, ArtefactCache(tmp_path / "cache")), FINGERPRINT)
    async with fetch.fetched(request.guidance, "team") as artefacts:
        messages = run(make_engine(), [Admit(id="a", request=request, artefacts=artefacts)])
    text_of(ends(messages)["a"])
    report = next(message for message in messages if isinstance(message, BatchReport))
    assert report.rows[0].guidance == [
        "lora team/lora@1*-0.5",
        "prefix team/prefix@1",
        "ia3 team/ia3@1",
        "soft_prompt team/soft-prompt@1",
        "inserted_layer team/inserted-layer@1",
    ]


async def test_guidance_bound_by_the_former_fingerprint_is_refused_with_the_way_out(
    folder: Path, tmp_path: Path
) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    found = [manifest_files.upload(one.path, one.manifest, store) for one in manifest_files.read_manifests(folder)]
    reader = CatalogueFollower(Cluster("no broker"))
    for change in plan_changes(reader.catalogue, found):
        reader.catalogue.absorb(
            change.identity.topic, change.identity.key(change.version), MANIFEST.encode(change.manifest)
        )
    now = "sha256:" + "9" * 64
    fetch = GuidanceFetch(reader, ArtefactFetch(store, ArtefactCache(tmp_path / "cache")), now, FINGERPRINT)
    with pytest.raises(Refusal, match="the former way") as caught:
        async with fetch.fetched([GuidanceRef(namespace="team", name="lora", version=1)], "team"):
            pass
    assert caught.value.code is FailureCode.GUIDANCE_WRONG_MODEL
    assert now in caught.value.message


@pytest.mark.parametrize("form", [form for form in FORMS if form != "lora"])
def test_a_scale_on_anything_but_a_lora_is_refused_when_it_is_applied(folder: Path, tmp_path: Path, form: str) -> None:
    name = form.replace("_", "-")
    text = ENDPOINT.replace("guidance: [", f"guidance: [team/{name}*2, ")
    (folder / "all.yaml").write_text("\n---\n".join([MODEL, text, *map(guidance, FORMS)]))
    store = ArtefactStore(str(tmp_path / "store"))
    found = [manifest_files.upload(one.path, one.manifest, store) for one in manifest_files.read_manifests(folder)]
    with pytest.raises(Refusal, match=rf"team/{name} is of form {form}, and only a lora takes a scale") as caught:
        check_manifests(found, CatalogueFollower(Cluster("no broker")).catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST


async def test_a_copy_that_changed_under_the_engine_is_told_and_never_run(
    folder: Path, tmp_path: Path, make_engine: MakeEngine
) -> None:
    """The bytes are hashed when they are loaded, and not only when they are fetched."""
    store = ArtefactStore(str(tmp_path / "store"))
    found = [manifest_files.upload(one.path, one.manifest, store) for one in manifest_files.read_manifests(folder)]
    reader = CatalogueFollower(Cluster("no broker"))
    for change in plan_changes(reader.catalogue, found):
        reader.catalogue.absorb(
            change.identity.topic, change.identity.key(change.version), MANIFEST.encode(change.manifest)
        )
    version, endpoint = reader.catalogue.endpoint("team", "task")
    address = ReplyAddress(topic="gw.team.task.out.v1")
    request = marshal(
        Event(id="e", content="hello"), endpoint, version, reader.catalogue, reply_to=[address], now_ms=0, written_ms=0
    )
    artefacts = ArtefactFetch(store, ArtefactCache(tmp_path / "cache"))

    async def answer(artefacts: list[Artefact]) -> Finished:
        (end,) = ends(run(make_engine(), [Admit(id="a", request=request, artefacts=artefacts)])).values()
        if isinstance(end, Refused):
            assert end.code is FailureCode.GUIDANCE_MISSING
            raise Altered(end.altered, end.message)
        return end

    async with GuidanceFetch(reader, artefacts, FINGERPRINT).fetched(request.guidance, "team") as fetched:
        for one in fetched:
            weights = Path(one.folder) / "adapter_model.safetensors"
            intact = weights.read_bytes()
            weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
            with pytest.raises(Altered, match=f"guidance {re.escape(one.name)}: its copy on this machine") as caught:
                await answer(fetched)
            assert caught.value.digest == one.digest
            await artefacts.with_good_copies(lambda: answer(fetched))
            assert weights.read_bytes() == intact


@pytest.mark.parametrize(
    ("refs", "said"),
    [
        ([("lora", 1.0)] * 5000, "5000 guidances"),
        ([("lora", 2.0), ("lora", 2.0)], "named twice"),
        ([("lora", 1.0), ("twin", 1.0)], "the same artefact"),
    ],
)
async def test_a_worker_takes_each_guidance_once_whoever_wrote_the_request(
    folder: Path, tmp_path: Path, refs: list[tuple[str, float]], said: str
) -> None:
    store, reader = ArtefactStore(str(tmp_path / "store")), CatalogueFollower(Cluster("no broker"))
    (folder / "twin.yaml").write_text(guidance("lora").replace("name: lora", "name: twin"))
    found = [manifest_files.upload(one.path, one.manifest, store) for one in manifest_files.read_manifests(folder)]
    for change in plan_changes(reader.catalogue, found):
        reader.catalogue.absorb(
            change.identity.topic, change.identity.key(change.version), MANIFEST.encode(change.manifest)
        )
    fetch = GuidanceFetch(reader, ArtefactFetch(store, ArtefactCache(tmp_path / "cache")), FINGERPRINT)
    named = [GuidanceRef(namespace="team", name=name, version=1, scale=scale) for name, scale in refs]
    with pytest.raises(Refusal, match=said) as caught:
        async with fetch.fetched(named, "team"):
            pass
    assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
    assert not (tmp_path / "cache").exists(), "nothing was fetched"
