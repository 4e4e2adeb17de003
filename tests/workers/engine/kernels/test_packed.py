"""Packed weights give the numbers of the weights that they were packed from, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guideway.workers.engine.kernels.linears import packed
from guideway.workers.engine.kernels.linears.packed import PackedLinear, pack_linears
from guideway.workers.engine.model.base_model import BaseModel

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products to pack for"
)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (3, 7), (1, 300), (5,)])
def test_packed_equals_plain(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(96, 200, bias=bias).bfloat16().requires_grad_(False)
    x = torch.randn(*shape, 96).bfloat16()
    assert torch.equal(PackedLinear(linear)(x), linear(x))


@torch.inference_mode()
def test_a_packed_model_computes_the_same_with_its_weights_untouched(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine whose products are faster by torch.
    monkeypatch.setattr(packed, "product_of", lambda linear: None)
    model = base.model.to(torch.bfloat16)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    ids = torch.arange(40).view(4, 10)
    plain = model(ids).logits
    pack_linears(model)
    assert isinstance(model.get_submodule("lm_head").forward, PackedLinear)
    assert torch.equal(model(ids).logits, plain)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_float32_is_left_alone(base: BaseModel) -> None:
    pack_linears(base.model)
    assert not any("forward" in vars(module) for module in base.model.modules())
