"""LoRA: reading what PEFT saved, and the batched update against a plain loop over the rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeArtefact
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.engine.lora import BatchedLora, Factors, Lora

MODULE = "model.layers.1.self_attn.q_proj"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
POPULARITY: dict[str, Callable[[int], list[int | None]]] = {
    "distinct": lambda rows: list(range(rows)),
    "uniform": lambda rows: [i % 3 for i in range(rows)],
    "zipf": lambda rows: random.Random(0).choices(range(rows), [1 / (i + 1) ** 1.5 for i in range(rows)], k=rows),
    "identical": lambda rows: [0] * rows,
    "skewed": lambda rows: [0] * (rows - 2) + [1, None],
}


def reference(base: Tensor, x: Tensor, loras: list[list[Factors]]) -> Tensor:
    """y[i] = base[i] + Σ (x[i] Aᵀ) B over the LoRAs of row i, in float64."""
    y = base.double()
    for i, factors in enumerate(loras):
        for f in factors:
            y[i] += x[i].double() @ f.a.double().T @ f.b.double()
    return y


def factors(rank: int, module: nn.Linear) -> Factors:
    return Factors(a=torch.randn(rank, module.in_features) * 0.1, b=torch.randn(rank, module.out_features) * 0.1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("ranks", [(8,), (1, 4, 16)])
@pytest.mark.parametrize("popularity", POPULARITY)
def test_batched_update_equals_a_loop(
    base: BaseModel, popularity: str, ranks: tuple[int, ...], tokens: int, dtype: torch.dtype
) -> None:
    rows = 9
    model = base.model.to(dtype)
    module = model.get_submodule(MODULE)
    shelf = [factors(ranks[i % len(ranks)], module) for i in range(rows)]
    chosen = [[] if i is None else [shelf[i]] for i in POPULARITY[popularity](rows)]
    batched = seated(model, chosen)
    batched.see(slice(0, rows))
    x = torch.randn(rows, tokens, module.in_features).to(dtype)
    expected = reference(nn.functional.linear(x, module.weight), x, chosen)
    torch.testing.assert_close(module(x).double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def seated(model: PreTrainedModel, chosen: list[list[Factors]]) -> BatchedLora:
    batched = BatchedLora(model, max_rows=len(chosen))
    for slot, row in enumerate(chosen):
        batched.seat(slot, [Lora({MODULE: f}) for f in row])
    return batched


@torch.inference_mode()
def test_rows_leave_and_come_and_only_the_slots_seen_matter(base: BaseModel) -> None:
    module = base.model.get_submodule(MODULE)
    small, large, other = factors(2, module), factors(12, module), factors(5, module)
    rows = [[small], [large], [], [small, other]]
    batched = seated(base.model, rows)
    x = torch.randn(4, 3, module.in_features)
    plain = nn.functional.linear(x, module.weight)

    def check(rows: list[list[Factors]], slots: slice) -> None:
        batched.see(slots)
        n = slots.stop - slots.start
        torch.testing.assert_close(
            module(x[:n]).double(), reference(plain[:n], x[:n], rows[slots]), rtol=1e-5, atol=1e-5
        )

    check(rows, slice(0, 4))
    check(rows, slice(2, 3))
    check(rows, slice(1, 4))
    batched.leave(1, 3)
    rows = [rows[0], rows[3], rows[2]]
    check(rows, slice(0, 3))
    batched.leave(2, 2)
    batched.leave(0, 1)
    check([[small, other]], slice(0, 1))
    batched.leave(0, 0)
    batched.see(slice(0, 0))
    batched.seat(0, [Lora({MODULE: large})])
    check([[large]], slice(0, 1))


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
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias: all"),
        ({"target_modules": ["embed_tokens"]}, "no LoRA factor of a linear module"),
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
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed base weights"),
        ({"r": 5}, "they must be"),
        ({"r": "four"}, "must be a number"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
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


def test_every_setting_that_is_refused_is_one_of_pefts() -> None:
    from guideway.workers.engine.lora import _UNSUPPORTED

    assert set(_UNSUPPORTED) <= set(LoraConfig.__dataclass_fields__)
