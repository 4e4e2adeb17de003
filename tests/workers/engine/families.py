"""Tiny random models of several families, built from their configurations."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

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
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": {"head_dim": 16, **LLAMA_LIKE},
    "gemma": {"head_dim": 16, "tie_word_embeddings": False, **LLAMA_LIKE},
    "gemma2": {"head_dim": 16, "sliding_window": 512, "query_pre_attn_scalar": 16, **LLAMA_LIKE},
    # With random weights, tied and scaled embeddings make a model that repeats its last token, whatever guides it.
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
        **LLAMA_LIKE,
    },
    "mixtral": {"num_local_experts": 4, **LLAMA_LIKE},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 8},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512, "expansion_ratio": 2},
    "gpt_oss": {
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"],
        **LLAMA_LIKE,
    },
}


def tiny(family: str, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> PreTrainedModel:
    """The same random weights and biases every time, large enough that texts differ."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        initializer_range=0.25,
        eos_token_id=tokenizer.eos_token_id,
        **{"bos_token_id": None, "pad_token_id": None, **FAMILIES.get(family, {}), **settings},
    )
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.normal_(std=0.1)
    return model


def written(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """The text of these tokens, up to its last whole character: random models write bytes that are none.

    The tokenizer's own decoding gives up whole runs of bytes where one token cuts a character.
    """
    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    special = set(tokenizer.all_special_ids)
    tokens = [tokenizer.convert_ids_to_tokens(int(id_)) for id_ in ids if int(id_) not in special]
    # The byte 255 is of no character, and the grammars' tokenizer, whose bytes the engine reads, marks tokens with it.
    data = bytes(byte_of[char] for token in tokens for char in token).replace(b"\xff", b"")
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
