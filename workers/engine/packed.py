"""Weights laid out once as the CPU's matrix products want them.

`linear` of few tokens in bfloat16 spends much of its time on bringing the weight into oneDNN's own layout, at every
call. A copy in that layout beside the frozen weight gives the same numbers, bit for bit, in about half of the time, and
takes as much memory again.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_TOKENS: Final = 16
"""oneDNN chooses the layout for so many tokens a step; another number works as well, a little slower."""


class PackedLinear:
    """y = x Wᵀ + b, by a packed copy of W; stands in for the `forward` of a frozen `nn.Linear`."""

    def __init__(self, linear: nn.Linear) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TOKENS)
        self._bias = linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def pack_linears(model: PreTrainedModel) -> None:
    """Let each `nn.Linear` of `model` compute by a packed weight where that helps: bfloat16, on a CPU that has it."""
    if not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu":
            vars(module)["forward"] = PackedLinear(module)
