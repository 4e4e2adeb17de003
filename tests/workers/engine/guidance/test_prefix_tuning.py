"""Prefixes: reading what PEFT saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeArtefact, tiny_llama
from tests.workers.engine.families import LLAMA_LIKE, tiny
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.guidance.prefix_tuning import PrefixTuning
from guideway.workers.engine.model.base_model import BaseModel

_GEMMA_4: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size_per_layer_input": 0,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "full_attention"],
}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
           "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
           "num_key_value_heads": 4}  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"prefix_projection": True, "encoder_hidden_size": 8}])
@pytest.mark.filterwarnings("ignore")
def test_states_are_those_of_peft(
    base: BaseModel, make_prefix: MakeArtefact, tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any]
) -> None:
    folder = make_prefix("a/b@1", **settings).folder
    prefix = PrefixTuning.load(Path(folder), base.model)
    cache = PeftModel.from_pretrained(tiny_llama(tokenizer), folder).get_prompt(batch_size=1)
    for ours, layer in zip(prefix.states, cache.layers, strict=True):
        assert torch.equal(ours[0], layer.keys[0])
        assert torch.equal(ours[1], layer.values[0])
    assert prefix.tokens == 4
    assert prefix.nbytes == 2 * 2 * 2 * 4 * 16 * 4


def test_what_does_not_fit_is_refused(base: BaseModel, make_prefix: MakeArtefact) -> None:
    folder = Path(make_prefix("a/b@1").folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    flat, whole = load_file(file)["prompt_embeddings"], json.loads(config.read_text())
    for tensors, says in (
        ({"prompt_embeddings": flat[:, :-1].contiguous()}, "train it for this model"),
        ({"prompt_embeddings": flat[:-1].contiguous()}, "`num_virtual_tokens` are 4"),
        ({"prompt_embeddings": flat, "more": flat.clone()}, "alone"),
        ({"other": flat}, "alone"),
    ):
        save_file(tensors, file)
        with pytest.raises(Refusal, match=says):
            PrefixTuning.load(folder, base.model)
    save_file({"prompt_embeddings": flat}, file)
    for change, says in (
        ({"peft_type": "PROMPT_TUNING"}, "declare it with form soft_prompt"),
        ({"num_layers": 1, "num_attention_heads": 4}, "train it for this model"),
    ):
        config.write_text(json.dumps(whole | change))
        with pytest.raises(Refusal, match=says):
            PrefixTuning.load(folder, base.model)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        # Its full layers have larger heads.
        ("gemma4_text", {**_GEMMA_4, "global_head_dim": 32}),
        # Its last layers use the states of the ones before.
        (
            "gemma4_text",
            {
                **_GEMMA_4,
                "global_head_dim": 16,
                "num_hidden_layers": 4,
                "num_kv_shared_layers": 2,
                "layer_types": _GEMMA_4["layer_types"] * 2,
            },
        ),
        # Its keys are larger than its values.
        ("deepseek_v3", _LATENT),
    ],
)
def test_a_model_that_can_have_none_refuses_it(
    family: str, settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast, make_prefix: MakeArtefact
) -> None:
    model = tiny(family, tokenizer, **{**LLAMA_LIKE, **settings})
    folder = Path(make_prefix("a/b@1").folder)
    with pytest.raises(Refusal, match="train a soft prompt or an adapter") as caught:
        PrefixTuning.load(folder, model)
    assert caught.value.code == FailureCode.GUIDANCE_UNSUPPORTED
    assert not caught.value.code.retryable


def test_heads_that_all_queries_share_are_seen(tokenizer: PreTrainedTokenizerFast, make_prefix: MakeArtefact) -> None:
    """The configuration names the heads of queries only."""
    settings = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True}
    model = tiny("falcon", tokenizer, **settings)
    with pytest.raises(Refusal, match=r"the model needs \(2, 1, 16\)"):
        PrefixTuning.load(Path(make_prefix("a/b@1").folder), model)
