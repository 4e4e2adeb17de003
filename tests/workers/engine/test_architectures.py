"""Any transformers causal LM: tiny random models of several families against `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, base_of, ends, run, text_of
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.prompt import PromptLayout
from guideway.workers.messages import EngineSettings, Refused

LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {name: value for name, value in LLAMA_LIKE.items() if name != "num_key_value_heads"},
    "qwen3": {"head_dim": 16, **LLAMA_LIKE},
    "gemma2": {"head_dim": 16, "sliding_window": 512, "query_pre_attn_scalar": 16, **LLAMA_LIKE},
    "gemma3_text": {"head_dim": 16, "sliding_window": 512, **LLAMA_LIKE},
    "mixtral": {"num_local_experts": 4, **LLAMA_LIKE},
}


def tiny(family: str, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        initializer_range=0.25,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **FAMILIES.get(family, {}),
        **settings,
    )
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_generate_what_generate_does(
    family: str, tokenizer: PreTrainedTokenizerFast, make_admit: MakeAdmit
) -> None:
    model = tiny(family, tokenizer)
    engine = Engine(base_of(model, tokenizer), EngineSettings(), max_context_tokens=512)
    admits = [make_admit("x" * n, max_tokens=12) for n in (1, 9, 60)]
    found = ends(run(engine, admits))
    for admit in admits:
        ids = torch.tensor([PromptLayout(tokenizer).encode(admit.request.parts).token_ids])
        alone = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert text_of(found[admit.id]) == tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_sliding_window_bounds_the_context(tokenizer: PreTrainedTokenizerFast, make_admit: MakeAdmit) -> None:
    model = tiny("mistral", tokenizer, sliding_window=64, **LLAMA_LIKE)
    engine = Engine(base_of(model, tokenizer), EngineSettings(), max_context_tokens=512)
    short, long = make_admit("x", max_tokens=12), make_admit("x" * 60, max_tokens=12)
    found = ends(run(engine, [short, long]))
    assert text_of(found[short.id])
    end = found[long.id]
    assert isinstance(end, Refused)
    assert end.code == FailureCode.TEXT_TOO_LONG


def test_layers_that_do_not_attend_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    kinds = ["linear_attention", "full_attention"]
    model = tiny("llama", tokenizer, **LLAMA_LIKE)
    model.config.layer_types = kinds
    with pytest.raises(Refusal, match="linear_attention"):
        Engine(base_of(model, tokenizer), EngineSettings(), max_context_tokens=512)
