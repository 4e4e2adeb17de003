"""Adapters as training loops leave them: run as PEFT runs them, or refused with the cause and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, tiny_llama
from transformers import PreTrainedTokenizerFast

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.documents.manifest_files import upload
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance, TrainedForm
from guideway.workers.engine.guidance.ia3 import Ia3
from guideway.workers.engine.guidance.lora import Lora
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Artefact

# PEFT asks transformers for something by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."

RENAMED: dict[str, Callable[[str], str]] = {
    "an adapter's name": lambda name: name.replace(".weight", ".default.weight"),
    "another adapter's name": lambda name: name.replace(".weight", ".mood.weight"),
    "torch.compile": lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "torch.compile outside": lambda name: f"_orig_mod.{name}",
    "data parallel": lambda name: f"module.{name}",
    "data parallel around torch.compile": lambda name: f"module._orig_mod.{name}",
    "sharded data parallel": lambda name: name.replace("self_attn.", "_fsdp_wrapped_module.self_attn."),
    "activation checkpoints": lambda name: name.replace("self_attn.", "_checkpoint_wrapped_module.self_attn."),
    "a model without its head": lambda name: name.replace(f"{PREFIX}model.", PREFIX),
}


def rename(folder: Path, change: Callable[[str], str]) -> None:
    tensors = load_file(folder / WEIGHTS)
    changed = {change(name): tensor for name, tensor in tensors.items()}
    assert changed.keys() != tensors.keys()
    save_file(changed, folder / WEIGHTS)


def tree(folder: Path) -> None:
    """What a trainer leaves beside an adapter; none of it may be opened."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin"):
        (folder / name).write_bytes(b"\x80\x04cos\nsystem\n")
    (folder / "trainer_state.json").write_text("{")


def applied(folder: Path, tmp_path: Path, form: TrainedForm = "lora") -> None:
    """As `guideway apply` reads it."""
    made = Guidance(namespace="a", name="b", form=form, artefact=str(folder), model_fingerprint="sha256:" + "0" * 64)
    upload(tmp_path / "manifest.yaml", made, ArtefactStore(str(tmp_path / "store")))


def refused(folder: Path, tmp_path: Path) -> str:
    with pytest.raises(Refusal) as caught:
        applied(folder, tmp_path)
    assert "manifest.yaml: b: " in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("kind", RENAMED)
@pytest.mark.parametrize("dora", [False, True])
def test_names_that_wrappers_leave_are_read(
    base: BaseModel, make_lora: MakeArtefact, tmp_path: Path, kind: str, dora: bool
) -> None:
    folder = Path(make_lora("a/b@1", use_dora=dora).folder)
    plain = Lora.load(folder, base.model)
    rename(folder, RENAMED[kind])
    applied(folder, tmp_path)
    found = Lora.load(folder, base.model)
    assert found.factors.keys() == plain.factors.keys()
    for name, factors in found.factors.items():
        assert torch.equal(factors.a, plain.factors[name].a)
        assert torch.equal(factors.b, plain.factors[name].b)


def test_a_dora_as_a_model_has_it(base: BaseModel, make_lora: MakeArtefact) -> None:
    folder = Path(make_lora("a/b@1", use_dora=True).folder)
    plain = Lora.load(folder, base.model)
    rename(folder, lambda name: name.replace("magnitude_vector", "magnitude_vector.default.weight"))
    found = Lora.load(folder, base.model)
    assert all(torch.equal(one.b, plain.factors[name].b) for name, one in found.factors.items())


def test_an_ia3_as_a_model_has_it(base: BaseModel, make_ia3: MakeArtefact, tmp_path: Path) -> None:
    folder = Path(make_ia3("a/b@1").folder)
    plain = Ia3.load(folder, base.model)
    rename(folder, lambda name: f"module.{name}.default")
    applied(folder, tmp_path, "ia3")
    assert Ia3.load(folder, base.model).scales.keys() == plain.scales.keys()


def test_two_adapters_in_one_file_are_told(make_lora: MakeArtefact, tmp_path: Path) -> None:
    folder = Path(make_lora("a/b@1").folder)
    tensors = load_file(folder / WEIGHTS)
    both = {
        name.replace(".weight", f".{one}.weight"): t.clone() for one in ("mood", "topic") for name, t in tensors.items()
    }
    save_file(both, folder / WEIGHTS)
    assert "it holds 2 adapters (['mood', 'topic']): save one" in refused(folder, tmp_path)


def test_a_tensor_twice_is_told(make_lora: MakeArtefact, tmp_path: Path) -> None:
    folder = Path(make_lora("a/b@1").folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, **{f"module.{name}": tensor.clone() for name, tensor in tensors.items()}}, folder / WEIGHTS)
    assert " twice, " in refused(folder, tmp_path)


def test_what_a_trainer_leaves_beside_an_adapter_is_not_read(make_lora: MakeArtefact, tmp_path: Path) -> None:
    folder = Path(make_lora("a/b@1").folder)
    tree(folder)
    with (folder / "optimizer.pt").open("ab") as file:
        file.truncate(3 * 2**30)
    applied(folder, tmp_path)


def test_a_pickle_alone_is_refused_with_the_way_out(make_lora: MakeArtefact, tmp_path: Path) -> None:
    folder = Path(make_lora("a/b@1").folder)
    tree(folder)
    (folder / WEIGHTS).unlink()
    said = refused(folder, tmp_path)
    assert "lacks adapter_model.safetensors; adapter_model.bin is a pickle" in said
    assert "save_pretrained" in said


@pytest.mark.parametrize("names", [["mood"], ["checkpoint-100", "checkpoint-20"]])
def test_folders_below_are_named(make_lora: MakeArtefact, tmp_path: Path, names: list[str]) -> None:
    folder = Path(make_lora("a/b@1").folder)
    for name in names:
        shutil.copytree(folder, tmp_path / "output" / name)
    said = refused(tmp_path / "output", tmp_path)
    assert all(name in said for name in names)
    assert said.endswith("has them: name it" if len(names) == 1 else "have them: name one")


def test_a_whole_model_and_no_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "model.safetensors").write_bytes(b"")
    assert "it holds a whole model" in refused(tmp_path / "whole", tmp_path)
    assert "there is no such folder" in refused(tmp_path / "none", tmp_path)


@pytest.mark.parametrize("save_embedding_layers", [True, False])
def test_a_lora_of_the_output_head_is_run_as_peft_runs_it(
    tokenizer: PreTrainedTokenizerFast,
    make_lora: MakeArtefact,
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    tmp_path: Path,
    save_embedding_layers: bool,
) -> None:
    """Beside a row without one, in one micro-batch. PEFT saves the head's own weight with it unless told not to."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    adapted: Any = get_peft_model(tiny_llama(tokenizer), config)
    folder = tmp_path / "head"
    adapted.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    assert any("base_layer" in name for name in load_file(folder / WEIGHTS)) is save_embedding_layers
    applied(folder, tmp_path)
    artefact = Artefact(name="a/head@1", form="lora", digest="d", folder=str(folder))
    with_, without = make_admit(artefacts=[artefact], max_tokens=12), make_admit(max_tokens=12)
    # Their texts come in, in pieces, while the others decode.
    longer = make_admit("late " * 20, artefacts=[artefact], max_tokens=12)
    found = ends(run(make_engine(max_step_tokens=24), [without, with_, longer]))
    peft = PeftModel.from_pretrained(tiny_llama(tokenizer), folder)
    for admit, model in ((with_, peft), (without, None), (longer, peft)):
        end = found[admit.id]
        assert isinstance(end, Finished), end
        ids = torch.tensor([PromptLayout(tokenizer).encode(admit.request.parts).token_ids])
        reference: Any = (model or tiny_llama(tokenizer)).eval()
        made = reference.generate(input_ids=ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert end.samples[0].text == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    texts = {one.samples[0].text for one in found.values() if isinstance(one, Finished)}
    assert len(texts) == 3


def test_a_head_that_is_not_the_models_is_refused(
    base: BaseModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["lm_head"])
    adapted: Any = get_peft_model(tiny_llama(tokenizer), config)
    adapted.save_pretrained(tmp_path, save_embedding_layers=True)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors[f"{PREFIX}lm_head.base_layer.weight"][0, 0] += 1
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(Refusal, match="it holds weights of 'lm_head' that are not this model's") as caught:
        Lora.load(tmp_path, base.model)
    assert caught.value.code == FailureCode.GUIDANCE_DAMAGED


def test_embeddings_that_are_saved_along_are_told(make_lora: MakeArtefact, tmp_path: Path) -> None:
    folder = Path(make_lora("a/b@1").folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, f"{PREFIX}model.embed_tokens.weight": torch.zeros(8, 4)}, folder / WEIGHTS)
    said = refused(folder, tmp_path)
    assert "it holds weights of the base model ('model.embed_tokens')" in said
    assert "save_embedding_layers=False" in said


def test_a_configuration_of_a_later_peft_whose_settings_are_unused_is_taken(
    base: BaseModel, make_lora: MakeArtefact, tmp_path: Path
) -> None:
    """As unsloth writes it: another base model's name, a version to come, a mapping of its own."""
    folder = Path(make_lora("a/b@1").folder)
    config = json.loads((folder / CONFIG).read_text())
    config |= {
        "base_model_name_or_path": "unsloth/smollm2-135m-instruct-bnb-4bit",
        "peft_version": "0.99.0",
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
        "task_type": None,
        "setting_of_tomorrow": None,
    }
    (folder / CONFIG).write_text(json.dumps(config))
    applied(folder, tmp_path)
    assert Lora.load(folder, base.model).factors
