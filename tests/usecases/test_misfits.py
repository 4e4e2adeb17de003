"""Guidance that does not fit its base model is refused when it is applied, on a real broker.

The broker is shared, so each test has a model with a fingerprint of its own.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file, save_file
from tests.models import artefacts
from tests.workers.engine.conftest import tiny_llama, tiny_tokenizer
from tests.workers.engine.families import LLAMA_LIKE, tiny
from transformers import PreTrainedModel

from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model, TrainedForm
from guideway.schemas.output import Text
from guideway.settings import Settings
from guideway.usecases.apply import apply_made, apply_manifests, preview
from guideway.usecases.models.misfits import misfits
from guideway.usecases.packaged import SMALL
from guideway.workers.engine.guidance.model_shape import whole_shape_of
from guideway.workers.messages.to_engine import Artefact

DEMO = Path(__file__).parents[2] / "examples" / "demo"
NARROW = LLAMA_LIKE | {"hidden_size": 32}
DIGEST = f"sha256:{'7' * 64}"


class Bench:
    def __init__(self, broker: RunningBroker, folder: Path) -> None:
        self.settings = Settings(home=folder, store=str(folder / "store"), named=broker.cluster)

    async def apply(self, *manifests: Manifest) -> list[tuple[int, str]]:
        changes = await apply_manifests(self.settings, [Source(Path("a.yaml"), one) for one in manifests])
        return [(change.version, change.action) for change in changes]

    async def made(self, *manifests: Manifest) -> None:
        await apply_made(self.settings, {one.namespace for one in manifests}, lambda _: manifests)

    async def refused(self, manifest: Guidance) -> str:
        """What everybody is told who writes it: in a dry run, by hand, by a program."""
        sources = [Source(Path("a.yaml"), manifest)]
        said = set()
        for way in (preview(self.settings, sources), apply_manifests(self.settings, sources), self.made(manifest)):
            with pytest.raises(Faulty) as caught:
                await way
            [fault] = caught.value.faults
            assert fault.code is FailureCode.GUIDANCE_DAMAGED
            said.add(fault.message)
        assert not (self.settings.home / "store").exists()
        assert await self.latest(manifest) is None
        [message] = said
        return message

    async def latest(self, manifest: Manifest) -> Manifest | None:
        async with CatalogueFollower(self.settings.cluster()) as reader:
            found = reader.catalogue.latest(Identity.of(manifest))
        return None if found is None else found[1]


@pytest.fixture
def bench(broker: RunningBroker, tmp_path: Path) -> Bench:
    return Bench(broker, tmp_path)


def saved(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def guidance(
    namespace: str, artefact: Artefact | Path, fingerprint: str | None, form: TrainedForm = "lora"
) -> Guidance:
    folder = artefact if isinstance(artefact, Path) else artefact.folder
    return Guidance(namespace=namespace, name="g", form=form, artefact=str(folder), model_fingerprint=fingerprint)


async def test_apply_says_what_a_worker_would_have_said_at_each_event(
    bench: Bench, unique_name: str, tmp_path: Path
) -> None:
    ours, theirs = tiny_llama(tiny_tokenizer(), seed=21), tiny("llama", tiny_tokenizer(), **NARROW)
    model = Model(namespace="public", name=unique_name, source=str(saved(tmp_path / "model", ours)))
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    wrong, right = artefacts.lora(theirs, tmp_path / "theirs"), artefacts.lora(ours, tmp_path / "ours")
    assert await bench.apply(model) == [(1, "created")]
    applied = await bench.latest(model)
    assert isinstance(applied, Model)
    assert applied.shape == whole_shape_of(ours)
    message = await bench.refused(guidance(unique_name, wrong, applied.fingerprint))
    assert message == (
        f"it does not fit the model of size {unique_name}: its factors of 'model.layers.0.self_attn.k_proj' are "
        "{'A.weight': [2, 32], 'B.weight': [16, 2]}, and here they must be {'A.weight': [2, 64], 'B.weight': [32, 2]}: "
        "train it for this model"
    )
    assert await bench.apply(guidance(unique_name, right, applied.fingerprint)) == [(1, "created")]
    # Who names the fingerprint alone takes nothing back, with the model on this machine or without it.
    for source in (model.source, "/nowhere/model"):
        again = msgspec.structs.replace(model, fingerprint=applied.fingerprint, source=source)
        assert (await bench.apply(again))[0][1] == ("unchanged" if source == model.source else "updated")
        now = await bench.latest(model)
        assert isinstance(now, Model)
        assert now.shape == applied.shape


async def test_a_model_of_an_earlier_guideway_refuses_nothing_until_it_is_applied_again(
    bench: Bench, unique_name: str, tmp_path: Path
) -> None:
    ours, theirs = tiny_llama(tiny_tokenizer(), seed=22), tiny("llama", tiny_tokenizer(), **NARROW)
    model = Model(namespace="public", name=unique_name, source=str(saved(tmp_path / "model", ours)))
    await bench.apply(model)
    shaped = await bench.latest(model)
    assert isinstance(shaped, Model)
    former = Model(namespace="public", name=f"{unique_name}-f", source=model.source, fingerprint=DIGEST)
    await bench.made(former)
    wrong = artefacts.soft_prompt(theirs, tmp_path)
    loose = msgspec.structs.replace(guidance(unique_name, wrong, DIGEST, "soft_prompt"), name="loose")
    assert await bench.apply(loose) == [(1, "created")]
    # Applied along with the guidance, a model counts as much as one that is there.
    known = msgspec.structs.replace(former, shape=shaped.shape)
    misfit = msgspec.structs.replace(loose, name="other")
    with pytest.raises(Faulty, match=r"its embeddings are \[3, 32\], and the model needs \[virtual tokens, 64\]"):
        await bench.apply(misfit, known)
    assert await bench.apply(known) == [(2, "updated")]
    with pytest.raises(Refusal, match=rf"it does not fit the model of size {unique_name}-f"):
        await bench.apply(misfit)
    # What is there already may be described anew.
    at = await bench.latest(loose)
    assert isinstance(at, Guidance)
    assert await bench.apply(msgspec.structs.replace(at, description="as before")) == [(2, "updated")]
    # Moved to another model by its digest, it is looked at.
    for moved, why in (
        (msgspec.structs.replace(at, model_fingerprint=shaped.fingerprint), rf"size {unique_name}: its embeddings are"),
        (msgspec.structs.replace(at, form="lora"), "declare it with form soft_prompt"),
    ):
        with pytest.raises(Faulty, match=why):
            await bench.apply(moved)
    right = artefacts.soft_prompt(ours, saved(tmp_path / "right", ours))
    fits = msgspec.structs.replace(guidance(unique_name, right, f"sha256:{'8' * 64}", "soft_prompt"), name="fits")
    await bench.apply(fits)
    there = await bench.latest(fits)
    assert isinstance(there, Guidance)
    moved = msgspec.structs.replace(there, model_fingerprint=shaped.fingerprint)
    assert await bench.apply(moved) == [(2, "updated")]


async def test_virtual_tokens_are_read_off_the_artefact_and_not_believed(
    bench: Bench, unique_name: str, tmp_path: Path
) -> None:
    ours = tiny_llama(tiny_tokenizer(), seed=24)
    digest = f"sha256:{hashlib.sha256(unique_name.encode()).hexdigest()}"
    model = Model(
        namespace="public", name=unique_name, source="/nowhere/model", fingerprint=digest, max_context_tokens=16
    )
    soft = guidance(unique_name, artefacts.soft_prompt(ours, tmp_path), digest, "soft_prompt")
    endpoint = Endpoint(
        namespace=unique_name,
        name="e",
        model_size=unique_name,
        output=Text(),
        guidance=[f"{unique_name}/g"],
        generation=Generation(max_tokens=13),
    )
    with pytest.raises(Faulty, match="3 virtual tokens of guidance and an answer of 13 tokens leave none of the 16"):
        await bench.apply(model, soft, endpoint)
    with pytest.raises(Faulty, match="virtual_tokens is 2, and its artefact is known to have 3: leave it out"):
        await bench.apply(msgspec.structs.replace(soft, virtual_tokens=2))
    await bench.apply(model, soft, msgspec.structs.replace(endpoint, generation=Generation(max_tokens=12)))
    there = await bench.latest(soft)
    assert isinstance(there, Guidance)
    assert there.virtual_tokens == 3
    for same in (soft, there, msgspec.structs.replace(there, virtual_tokens=None)):
        assert await bench.apply(same) == [(1, "unchanged")]
    with pytest.raises(Faulty, match="virtual_tokens is 2"):
        await bench.apply(msgspec.structs.replace(there, virtual_tokens=2))
    with pytest.raises(Faulty, match="3 virtual tokens of guidance and an answer of 13 tokens leave none of the 16"):
        await bench.apply(endpoint)


async def test_a_model_that_comes_after_its_guidance_says_what_does_not_fit_it(
    bench: Bench, unique_name: str, tmp_path: Path
) -> None:
    ours, theirs = tiny_llama(tiny_tokenizer(), seed=23), tiny("llama", tiny_tokenizer(), **NARROW)
    digest = f"sha256:{hashlib.sha256(unique_name.encode()).hexdigest()}"
    loose = guidance(unique_name, artefacts.soft_prompt(theirs, tmp_path), digest, "soft_prompt")
    right = artefacts.soft_prompt(ours, saved(tmp_path / "right", ours))
    fits = msgspec.structs.replace(guidance(unique_name, right, digest, "soft_prompt"), name="fits")
    bare = Model(namespace="public", name=unique_name, source="/nowhere/model", fingerprint=digest)
    names = {"one": ["g@1"], "two": ["g@1", "fits"], "three": ["fits"]}
    endpoints = [
        Endpoint(
            namespace=unique_name,
            name=name,
            model_size=unique_name,
            output=Text(),
            guidance=[f"{unique_name}/{one}" for one in named],
        )
        for name, named in names.items()
    ]
    await bench.apply(loose, fits, bare, *endpoints)
    shaped = msgspec.structs.replace(bare, shape=whole_shape_of(ours))
    wide = msgspec.structs.replace(shaped, name=f"{unique_name}-w", description="the same weights")
    for model in (shaped, wide):
        said: list[str] = []
        sources = [Source(Path("a.yaml"), model)]
        await preview(bench.settings, sources, told=said.append)
        (line,) = [one for one in said if "guidance" in one and "believed" not in one]
        assert line == (
            f"guidance {unique_name}/g@1 does not fit the model of size {model.name}, so that events of "
            f"/{unique_name}/one and 1 more that use it are refused: its embeddings are [3, 32], and the model needs "
            "[virtual tokens, 64]: train it for this model"
        )
        again: list[str] = []
        await apply_manifests(bench.settings, sources, told=again.append)
        assert line in again
        # Said once: nothing has changed since.
        again.clear()
        await apply_manifests(bench.settings, sources, told=again.append)
        assert again == []
    for bound in ("_MOST_READ", "_MOST_BYTES"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(f"guideway.usecases.models.misfits.{bound}", 1)
            few = msgspec.structs.replace(shaped, shape=msgspec.structs.replace(whole_shape_of(ours), layers=7))
            said.clear()
            await preview(bench.settings, [Source(Path("a.yaml"), few)], told=said.append)
            assert [unique_name in one and "/fits@1" in one for one in said if one.startswith("whether")] == [True]
            assert not any("/g@1" in one for one in said if one.startswith("whether"))
    # A newer shape of the same model is looked at again, and what cannot be read is told.
    shutil.rmtree(tmp_path / "store")
    other = msgspec.structs.replace(shaped, shape=msgspec.structs.replace(whole_shape_of(ours), hidden=96))
    said.clear()
    await apply_manifests(bench.settings, [Source(Path("a.yaml"), other)], told=said.append)
    (line,) = [one for one in said if one.startswith("whether they fit")]
    assert f"guidance {unique_name}/g@1 (model size {unique_name}), {unique_name}/fits@1" in line


async def test_the_demos_guidance_fits_the_packaged_model_and_is_refused_where_it_is_changed(
    bench: Bench, unique_name: str, tmp_path: Path
) -> None:
    """Nothing of the model is read for it."""
    [small] = [source.manifest for source in read_manifests(SMALL)]
    assert isinstance(small, Model)
    await bench.apply(msgspec.structs.replace(small, name=unique_name))
    lora = DEMO / "artefacts" / "review-lora"
    tensors = load_file(lora / "adapter_model.safetensors")
    deeper = {name.replace("layers.29.", "layers.31."): tensor for name, tensor in tensors.items()}
    save_file(deeper, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    said = await bench.refused(guidance(unique_name, tmp_path, small.fingerprint))
    assert "which is no linear module of the model (it has one in each of its 30 layers, 0 to 29)" in said
    assert "'model.layers.31." in said
    for name, form in (("review-lora", "lora"), ("topic-lora", "lora"), ("sentiment-soft-prompt", "soft_prompt")):
        one = guidance(unique_name, DEMO / "artefacts" / name, small.fingerprint, form)  # type: ignore[arg-type]
        assert await bench.apply(msgspec.structs.replace(one, name=name)) == [(1, "created")]


@pytest.mark.parametrize(
    ("form", "make", "says"),
    [
        ("lora", artefacts.lora, "its factors of 'model.layers.0.self_attn.k_proj'"),
        (
            "ia3",
            artefacts.ia3,
            "k_proj' is [16, 1], and here it must be [1, 64] or [32, 1]",
        ),
        ("soft_prompt", artefacts.soft_prompt, "its embeddings are [3, 32]"),
        ("prefix", artefacts.prefix, "and its width 96, and the model needs (2, 2, 32) and 128"),
        ("inserted_layer", artefacts.inserted_layer, "of size 32, and the model has 2 layers of size 64"),
    ],
)
def test_each_form_is_compared_with_its_model_alone(
    form: TrainedForm, make: Callable[[PreTrainedModel, Path], Artefact], says: str, tmp_path: Path
) -> None:
    made = make(tiny("llama", tiny_tokenizer(), **NARROW | {"num_hidden_layers": 3}), tmp_path)
    shape = whole_shape_of(tiny_llama(tiny_tokenizer()))
    model = Model(namespace="public", name="tiny", source="a/b", fingerprint=DIGEST, shape=shape)
    source = Source(Path("a.yaml"), guidance("shop", made, DIGEST, form))

    def found(*models: Model) -> list[str]:
        sources = [*(Source(Path("a.yaml"), one) for one in models), source]
        return [fault.message for fault in misfits(sources, Catalogue())]

    [message] = found(model)
    assert message.startswith("it does not fit the model of size tiny: ")
    assert says in message
    assert found() == []
    assert found(msgspec.structs.replace(model, shape=None)) == []
    assert found(msgspec.structs.replace(model, fingerprint=f"sha256:{'8' * 64}")) == []
