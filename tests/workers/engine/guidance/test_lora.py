"""LoRA: reading what PEFT saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeArtefact

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.guidance.lora import Factors, Lora
from guideway.workers.engine.model.base_model import BaseModel

MODULE = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 16}}, 0.5),
        ({"r": 4, "lora_alpha": 8, "rank_pattern": {r"layers\.0.*q_proj": 16}}, 2.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 6}}, 1.5),
    ],
)
def test_scaling_is_folded_into_b(
    base: BaseModel, make_lora: MakeArtefact, settings: dict[str, Any], scaling: float
) -> None:
    folder = Path(make_lora("a/b@1", **settings).folder)
    saved = load_file(folder / "adapter_model.safetensors")
    lora = Lora.load(folder, base.model)
    key = f"base_model.model.{MODULE}.lora_"
    torch.testing.assert_close(lora.factors[MODULE].a, saved[f"{key}A.weight"])
    torch.testing.assert_close(lora.factors[MODULE].b, saved[f"{key}B.weight"].T * scaling)
    assert lora.nbytes == 4 * sum(f.a.numel() + f.b.numel() for f in lora.factors.values())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias: all"),
        ({"target_modules": ["embed_tokens"]}, "it trains embeddings .*train linear modules only"),
    ],
)
def test_what_is_more_than_two_factors_is_refused(
    base: BaseModel, make_lora: MakeArtefact, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        Lora.load(Path(make_lora("a/b@1", **settings).folder), base.model)
    assert refused.value.code == FailureCode.GUIDANCE_DAMAGED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "declare it with form ia3"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed base weights"),
        ({"r": 5}, "they must be"),
        ({"r": "four"}, "must be a number"),
        ({"use_magic": True}, "`use_magic`, which this version does not know"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"use_dora": True}, "'magnitude_vector': \\[64\\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    base: BaseModel, make_lora: MakeArtefact, change: dict[str, Any], says: str
) -> None:
    folder = Path(make_lora("a/b@1").folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(Refusal, match=says):
        Lora.load(folder, base.model)


def test_tensors_that_do_not_fit_are_refused(base: BaseModel, make_lora: MakeArtefact) -> None:
    folder = Path(make_lora("a/b@1").folder)
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    key = f"base_model.model.{MODULE}.lora_A.weight"
    elsewhere = {name.replace("layers.1", "layers.7"): tensor for name, tensor in whole.items()}
    for damage, says in (
        (whole | {key: whole[key][:, :-1].contiguous()}, "they must be"),
        (whole | {key: whole[key] * float("nan")}, "not finite"),
        ({name: tensor for name, tensor in whole.items() if name != key}, "they must be"),
        (elsewhere, "no linear module of the model"),
        ({}, "no LoRA factors"),
    ):
        save_file(damage, file)
        with pytest.raises(Refusal, match=says):
            Lora.load(folder, base.model)
    file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(Refusal, match="cannot be read"):
        Lora.load(folder, base.model)
    with pytest.raises(Refusal, match="cannot be read"):
        Lora.load(folder / "elsewhere", base.model)


def test_a_dora_keeps_its_scale_beside_its_factors(base: BaseModel, make_lora: MakeArtefact) -> None:
    folder = Path(make_lora("a/dora@1", use_dora=True).folder)
    saved = load_file(folder / "adapter_model.safetensors")
    dora = Lora.load(folder, base.model)
    key = f"base_model.model.{MODULE}.lora_"
    a, b, m = (saved[f"{key}{part}"] for part in ("A.weight", "B.weight", "magnitude_vector"))
    c = m / (base.model.get_submodule(MODULE).weight + 2 * b @ a).norm(dim=1)
    factors = dora.factors[MODULE]
    assert factors.dora_scale is not None
    torch.testing.assert_close(factors.dora_scale, c)
    torch.testing.assert_close(factors.b, 2 * b.T * c)
    assert dora.nbytes == sum(tensor.nbytes for tensor in saved.values())
    with pytest.raises(Refusal, match="takes no scale"):
        dora.scaled(0.5)


def test_a_scale_is_that_many_times_the_effect(base: BaseModel, make_lora: MakeArtefact) -> None:
    lora = Lora.load(Path(make_lora("a/b@1").folder), base.model)
    assert lora.scaled(1.0) is lora
    assert torch.equal(lora.scaled(-0.5).factors[MODULE].b, lora.factors[MODULE].b * -0.5)
    assert torch.equal(lora.scaled(-0.5).factors[MODULE].a, lora.factors[MODULE].a)


def test_a_scale_beyond_what_the_models_type_holds_is_refused() -> None:
    """Else the row's numbers would be none, and the model would be told to be wrong."""
    lora = Lora({MODULE: Factors(torch.ones(1, 2), torch.full((1, 2), 2e38))})
    assert lora.scaled(1.5).factors[MODULE].b.isfinite().all()
    with pytest.raises(Refusal, match=r"8 times its weights are more than the model's type holds: scale it less"):
        lora.scaled(8)
