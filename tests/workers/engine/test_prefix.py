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
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import Refusal
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.engine.prefix import Prefix


@pytest.mark.parametrize("settings", [{}, {"prefix_projection": True, "encoder_hidden_size": 8}])
@pytest.mark.filterwarnings("ignore")
def test_states_are_those_of_peft(
    base: BaseModel, make_prefix: MakeArtefact, tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any]
) -> None:
    folder = make_prefix("a/b@1", **settings).folder
    prefix = Prefix.load(Path(folder), base.model)
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
            Prefix.load(folder, base.model)
    save_file({"prompt_embeddings": flat}, file)
    for change, says in (
        ({"peft_type": "PROMPT_TUNING"}, "declare it with form soft_prompt"),
        ({"num_layers": 1, "num_attention_heads": 4}, "train it for this model"),
    ):
        config.write_text(json.dumps(whole | change))
        with pytest.raises(Refusal, match=says):
            Prefix.load(folder, base.model)
    config.write_text(json.dumps(whole))
    base.model.config.kv_lora_rank = 8
    with pytest.raises(Refusal, match="a form of their own"):
        Prefix.load(folder, base.model)
