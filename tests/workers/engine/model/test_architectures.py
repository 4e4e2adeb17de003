"""Any transformers causal LM: tiny random models of several families against `generate`."""

from __future__ import annotations

import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, base_of, ends, run, text_of
from tests.workers.engine.families import FAMILIES, LLAMA_LIKE, tiny, written
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.to_engine import EngineSettings


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
        assert text_of(found[admit.id]) == written(tokenizer, alone[0, ids.shape[1] :])


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
