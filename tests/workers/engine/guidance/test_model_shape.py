"""The shape of a model: the same of a folder, whose weights nobody reads, as of the model that is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.models import artefacts
from tests.workers.engine.conftest import tiny_llama, tiny_tokenizer
from tests.workers.engine.families import FAMILIES, tiny
from transformers import PreTrainedTokenizerFast

from guideway.catalogue.adapters.adapter import parse_adapter
from guideway.catalogue.adapters.fitting import check_fits
from guideway.catalogue.artefacts.contents import PEFT_FILES, read_folder
from guideway.schemas.kinds.model_shape import KeptStates, LinearModules, ModelShape
from guideway.workers.engine.guidance.model_shape import shape_in, shape_of, whole_shape_of
from guideway.workers.engine.kernels.linears.int8_linear import keep_linears_in_int8
from guideway.workers.engine.model.fast_layers import use_fast_layers

LATENT: dict[str, Any] = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
                          "v_head_dim": 16, "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_group": 1,
                          "n_routed_experts": 4, "topk_group": 1, "num_experts_per_tok": 2}  # fmt: skip


def test_a_folder_says_it_without_weights(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    model.config.save_pretrained(tmp_path)
    found = shape_in(tmp_path)
    assert found == ModelShape(
        model_type="llama",
        layers=2,
        hidden=64,
        body="model",
        linears=[
            LinearModules(name=f"model.layers.*.{name}", inputs=inputs, outputs=outputs)
            for name, inputs, outputs in [
                ("self_attn.q_proj", 64, 64),
                ("self_attn.k_proj", 64, 32),
                ("self_attn.v_proj", 64, 32),
                ("self_attn.o_proj", 64, 64),
                ("mlp.gate_proj", 64, 96),
                ("mlp.up_proj", 64, 96),
                ("mlp.down_proj", 96, 64),
            ]
        ]
        + [LinearModules(name="lm_head", inputs=64, outputs=len(tokenizer))],
        kept=[KeptStates(layers=2, heads=2, key=16, value=16)],
    )


@pytest.mark.parametrize("family", [*FAMILIES, "deepseek_v3"])
@torch.inference_mode()
def test_a_folder_and_the_loaded_model_agree(family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny(family, tokenizer, **(FAMILIES["llama"] | LATENT if family == "deepseek_v3" else {}))
    model.config.save_pretrained(tmp_path)
    whole = whole_shape_of(model)
    assert shape_in(tmp_path) == whole
    assert all(".experts." not in one.name for one in whole.linears)
    for form, make in (
        ("lora", artefacts.lora),
        ("ia3", artefacts.ia3),
        ("inserted_layer", artefacts.inserted_layer),
        ("soft_prompt", artefacts.soft_prompt),
    ):
        folder = Path(make(model, tmp_path).folder)
        check_fits(parse_adapter(read_folder(folder, PEFT_FILES)), form, whole)  # type: ignore[arg-type]


@torch.inference_mode()
def test_how_it_is_served_does_not_change_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    bare = whole_shape_of(tiny_llama(tokenizer))
    fast, eight = tiny_llama(tokenizer).eval(), tiny_llama(tokenizer).to(torch.bfloat16).eval()
    use_fast_layers(fast)
    assert keep_linears_in_int8(eight)
    assert whole_shape_of(fast) == bare
    assert shape_of(eight) == msgspec.structs.replace(bare, kept=[])


def test_nothing_is_said_of_what_is_not_known(tmp_path: Path) -> None:
    tiny_llama(tiny_tokenizer()).config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for other in (
        config | {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        config | {"model_type": "unheard-of"},
        config | {"num_attention_heads": 7},
    ):
        file.write_text(json.dumps(other))
        assert shape_in(tmp_path) is None
    file.unlink()
    assert shape_in(tmp_path) is None
