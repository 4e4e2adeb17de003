"""A model that the engine cannot run, or would run wrongly, is refused when it is loaded, in a sentence."""

from __future__ import annotations

import pytest
import torch
from tests.workers.engine.conftest import base_of, tiny_llama
from tests.workers.engine.families import LLAMA_LIKE, tiny
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.to_engine import EngineSettings

_ROBERTA = {
    **{key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"},
    "is_decoder": True,
    "pad_token_id": 1,
}
"""It begins to count after the number of its padding token."""


def refused(base: BaseModel) -> str:
    with pytest.raises(Refusal) as caught:
        Engine(base, EngineSettings(), max_context_tokens=512)
    assert caught.value.code == FailureCode.UNSUPPORTED_MODEL
    return caught.value.message


def test_a_model_without_a_cache_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    settings = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
    message = refused(base_of(tiny("openai-gpt", tokenizer, **settings), tokenizer))
    assert "'openai-gpt' cannot be run" in message
    assert "docs/models.md" in message


def test_a_model_that_counts_positions_its_own_way_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "computes something else" in refused(base_of(tiny("roberta", tokenizer, **_ROBERTA), tokenizer))


def test_a_mask_that_supposes_rows_of_one_length_is_seen(tokenizer: PreTrainedTokenizerFast) -> None:
    settings = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
    model = tiny("gpt_neo", tokenizer, intermediate_size=96, max_position_embeddings=512, **settings)
    assert "computes something else" in refused(base_of(model, tokenizer))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tokenizer_with_more_ids_than_the_model_is_refused(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(family, tokenizer)
    model.resize_token_embeddings(len(tokenizer) - 1)
    message = refused(base_of(model, tokenizer))
    assert "<|end|>" in message
    assert "264" in message
    assert "resize_token_embeddings" in message


def test_a_vocabulary_that_is_padded_runs(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", tokenizer)
    model.resize_token_embeddings(len(tokenizer) + 23)
    Engine(base_of(model, tokenizer), EngineSettings(), max_context_tokens=512)


def test_weights_that_are_no_numbers_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_llama(tokenizer)
    model.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    assert "no finite number" in refused(base_of(model, tokenizer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_half_precision_is_no_reason(family: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast) -> None:
    Engine(base_of(tiny(family, tokenizer).to(dtype), tokenizer), EngineSettings(), max_context_tokens=512)


def test_what_is_wrong_is_seen_in_half_precision(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("roberta", tokenizer, **_ROBERTA).to(torch.bfloat16)
    assert "computes something else" in refused(base_of(model, tokenizer))
