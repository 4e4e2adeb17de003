"""Scaled rotary positions: a row's result is that of the row alone, whatever is beside it."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, base_of, ends, run, text_of
from tests.workers.engine.families import LLAMA_LIKE, tiny, written
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.to_engine import EngineSettings

_ORIGINAL: Final = 64
_SCALED: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "linear": ({"factor": 4.0}, 256),
    "llama3": ({"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": _ORIGINAL}, 256),
    "yarn": ({"factor": 4.0, "original_max_position_embeddings": _ORIGINAL}, 256),
    "dynamic": ({"factor": 4.0}, _ORIGINAL),
    "longrope": ({"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
                  "original_max_position_embeddings": _ORIGINAL}, 256),
}  # fmt: skip
"""What goes with each kind, and `max_position_embeddings`."""


@pytest.mark.parametrize(("family", "kind"), [*(("llama", kind) for kind in _SCALED), ("phi3", "longrope")])
def test_a_long_row_changes_no_other(
    family: str, kind: str, tokenizer: PreTrainedTokenizerFast, make_admit: MakeAdmit
) -> None:
    parameters, most = _SCALED[kind]
    model = tiny(
        family,
        tokenizer,
        **{**LLAMA_LIKE, "max_position_embeddings": most, "pad_token_id": 0},
        **({"original_max_position_embeddings": _ORIGINAL} if family == "phi3" else {}),
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **parameters},
    )
    admits = [make_admit("x", max_tokens=12), make_admit("It is said that", max_tokens=12)]
    beyond = make_admit("and so on " * 9, max_tokens=12)
    layout = PromptLayout(tokenizer)
    alone = {}
    for admit in (*admits, beyond):
        ids = torch.tensor([layout.encode(admit.request.parts).token_ids])
        assert (ids.shape[1] > _ORIGINAL) == (admit is beyond)
        tokens = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        alone[admit.id] = written(tokenizer, tokens[0, ids.shape[1] :])
    engine = Engine(base_of(model, tokenizer), EngineSettings(), max_context_tokens=512)
    found = ends(run(engine, [beyond, *admits]))
    assert [text_of(found[admit.id]) for admit in admits] == [alone[admit.id] for admit in admits]
    last = found[beyond.id]
    if kind in {"dynamic", "longrope"}:
        # There the batch's longest row would change all others.
        assert isinstance(last, Refused)
        assert last.code == FailureCode.TEXT_TOO_LONG
        assert str(_ORIGINAL) in last.message
    else:
        assert text_of(last) == alone[beyond.id]
