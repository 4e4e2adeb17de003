"""A model is applied with the fingerprint of its weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from tests.workers.engine.conftest import tiny_llama, tiny_tokenizer

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Catalogue
from guideway.schemas.kinds.model_shape import ModelShape
from guideway.schemas.manifests import Guidance, Model
from guideway.settings import Settings
from guideway.usecases.models.identified import identified, with_shapes, wrong_shapes
from guideway.usecases.packaged import SMALL
from guideway.workers.engine.guidance.model_shape import shape_in, whole_shape_of
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.fingerprint import fingerprint

DECLARED = f"sha256:{'1' * 64}"


def settings(home: Path) -> Settings:
    return Settings(home=home, store=str(home / "store"))


def test_a_model_without_a_fingerprint_gets_that_of_its_source(tmp_path: Path) -> None:
    folder, tokenizer, said = tmp_path / "tiny", tiny_tokenizer(), list[str]()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = Model(namespace="public", name="tiny", source=str(folder))
    (found,) = identified(settings(tmp_path), [Source(Path("a.yaml"), model)], said.append)
    shape = whole_shape_of(tiny_llama(tokenizer))
    assert found.manifest == msgspec.structs.replace(model, fingerprint=fingerprint(folder), shape=shape)
    assert fingerprint(folder) in said[-1]
    eight = msgspec.structs.replace(model, dtype="int8")
    (found,) = identified(settings(tmp_path), [Source(Path("a.yaml"), eight)], said.append)
    assert found.manifest == msgspec.structs.replace(eight, fingerprint=fingerprint(folder, dtype="int8"), shape=shape)


def test_a_model_with_a_fingerprint_gets_the_shape_of_its_source_where_that_is_the_same_model(tmp_path: Path) -> None:
    folder, tokenizer, said = tmp_path / "tiny", tiny_tokenizer(), list[str]()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = Model(namespace="public", name="tiny", source=str(folder), fingerprint=fingerprint(folder))
    (found,) = identified(settings(tmp_path), [Source(Path("a.yaml"), model)], said.append)
    assert found.manifest == msgspec.structs.replace(model, shape=whole_shape_of(tiny_llama(tokenizer)))
    assert said == ["reading the weights of model size tiny once, to find out what guidance has to fit"]
    # The weights of another model say nothing of the declared one.
    wrong = msgspec.structs.replace(model, fingerprint=DECLARED)
    sources = [Source(Path("a.yaml"), wrong)]
    assert identified(settings(tmp_path), sources, said.append) == sources
    assert said[-1].startswith(f"model size tiny: '{folder}' on this machine has fingerprint {model.fingerprint}")


def test_a_written_shape_is_compared_with_the_model_and_believed_only_where_that_is_not_there(tmp_path: Path) -> None:
    folder, tokenizer, said = tmp_path / "tiny", tiny_tokenizer(), list[str]()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    real = whole_shape_of(tiny_llama(tokenizer))
    model = Model(namespace="public", name="tiny", source=str(folder), fingerprint=fingerprint(folder), shape=real)
    assert identified(settings(tmp_path), [Source(Path("a.yaml"), model)], said.append)[0].manifest == model
    assert not said
    for fields, says in (
        ({"hidden": 32}, "shape.hidden is 32, and the model has 64: leave"),
        ({"linears": real.linears[1:]}, "shape.linears is not what the model has: leave"),
    ):
        wrong = msgspec.structs.replace(model, shape=msgspec.structs.replace(real, **fields))
        for one in (wrong, msgspec.structs.replace(wrong, fingerprint=None)):
            with pytest.raises(Faulty, match=says):
                identified(settings(tmp_path), [Source(Path("a.yaml"), one)], lambda _line: None)
    wrong = msgspec.structs.replace(model, shape=ModelShape(model_type="llama", layers=1, hidden=1))
    away = msgspec.structs.replace(wrong, source="/nowhere")
    other = msgspec.structs.replace(wrong, fingerprint=DECLARED)
    for one in (away, other):
        said.clear()
        assert identified(settings(tmp_path), [Source(Path("a.yaml"), one)], said.append)[0].manifest == one
        assert said[-1].startswith("model size tiny: its `shape` is believed as it is written: ")
    # What was applied before is not told again.
    there = Catalogue().after(catalogue_records(plan_changes(Catalogue(), [away])))
    said.clear()
    assert identified(settings(tmp_path), [Source(Path("a.yaml"), away)], said.append, there)[0].manifest == away
    assert not said


def test_another_shape_for_the_packaged_model_is_refused_wherever_it_is_applied() -> None:
    [small] = [source.manifest for source in read_manifests(SMALL)]
    [shaped] = with_shapes([Source(Path("a.yaml"), small)], Catalogue())
    assert isinstance(shaped.manifest, Model)
    assert shaped.manifest.shape is not None
    assert [*wrong_shapes([shaped])] == []
    shape = msgspec.structs.replace(shaped.manifest.shape, layers=31)
    wrong = msgspec.structs.replace(shaped.manifest, shape=shape, name="other", source="/nowhere")
    [fault] = wrong_shapes([Source(Path("a.yaml"), wrong)])
    assert fault.message.startswith("shape.layers is 31, and the model has 30: leave `shape` out")
    # Nor does one that is there already stand for the packaged one.
    there = Catalogue().after(catalogue_records(plan_changes(Catalogue(), [wrong])))
    assert with_shapes([Source(Path("a.yaml"), small)], there) == [shaped]


@torch.inference_mode()
def test_the_shape_that_the_packages_carry_is_that_of_their_model() -> None:
    """As a worker sees it that has loaded it."""
    [small] = [source.manifest for source in read_manifests(SMALL)]
    assert isinstance(small, Model)
    [shaped] = with_shapes([Source(Path("a.yaml"), small)], Catalogue())
    folder = base_model.prepare(small.source, Path(__file__).parents[2] / ".guideway" / "models")
    loaded = base_model.load(folder, dtype=torch.bfloat16, device="cpu")
    assert loaded.fingerprint == small.fingerprint
    assert shaped.manifest == msgspec.structs.replace(small, shape=whole_shape_of(loaded.model))
    assert shape_in(folder) == whole_shape_of(loaded.model)


def test_what_has_one_and_what_needs_none_stays_as_it_is(tmp_path: Path) -> None:
    declared = Model(namespace="public", name="tiny", source="/nowhere", fingerprint=DECLARED)
    prompt = Guidance(namespace="shop", name="p", form="text_prompt", text="Be kind.")
    sources = [Source(Path("a.yaml"), one) for one in (declared, prompt)]
    said: list[str] = []
    assert identified(settings(tmp_path), sources, said.append) == sources
    assert not said


def test_a_model_that_is_not_on_this_machine_must_say_its_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("kind: model/v1\nnamespace: public\nname: large\nsource: /nowhere/model\n")
    with pytest.raises(Faulty, match=r"write `fingerprint: sha256:…`") as caught:
        identified(settings(tmp_path), read_manifests(file), lambda _line: None)
    (fault,) = caught.value.faults
    assert fault.field in {"fingerprint", ""}
    assert "/nowhere/model" in fault.message
