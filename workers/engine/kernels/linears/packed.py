"""Weights that are laid out once as the CPU's matrix products need them, for processors where our own products
(`floating_product.py`) are not the faster ones.

For few tokens in bfloat16, `linear` spends much of its time on bringing the weight into oneDNN's own layout, at every
call. A copy in that layout beside the frozen weight gives the same numbers, bit for bit, in about half of the time. It
takes as much memory again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.workers.engine.kernels.linears.floating_product import (
    FloatingProduct,
    product_of,
    refuse_gradient,
)

_TOKENS: Final = 16
"""oneDNN chooses the layout for so many tokens a step. Other numbers of tokens work as well, a little slower."""


class PackedLinear:
    """y = x Wᵀ + b, by a packed copy of W; stands in for the `forward` of a frozen `nn.Linear`.

    Of several linears that read the same x, the outputs stand side by side: W = [W1; W2; …] and b likewise.
    """

    def __init__(self, *linears: nn.Linear) -> None:
        weight = _stacked([linear.weight.detach() for linear in linears])
        biases = [linear.bias for linear in linears if linear.bias is not None]
        assert len(biases) in {0, len(linears)}, "linears that are packed together all have a bias, or none has"
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)
        self._bias = _stacked(biases) if biases else None

    def __call__(self, x: Tensor) -> Tensor:
        """y [..., out] for x [..., in] in bfloat16. Raises: see `refuse_gradient`."""
        refuse_gradient(x)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def can_pack(module: nn.Module) -> bool:
    """Whether a packed weight helps: bfloat16, on a CPU that has products for it."""
    return (
        type(module) is nn.Linear
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
        and torch._C._has_mkldnn
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def pack_linears(model: PreTrainedModel, *, but: Collection[nn.Module] = ()) -> None:
    """Let each `nn.Linear` of `model` in bfloat16 compute by a packed weight where that helps. but: those packed
    elsewhere."""
    for module in model.modules():
        if type(module) is not nn.Linear or module.weight.dtype != torch.bfloat16 or module in but:
            continue
        if isinstance(vars(module).get("forward"), FloatingProduct | PackedLinear):
            continue
        if (product := product_of(module)) is not None:
            vars(module)["forward"] = product
        elif can_pack(module):
            vars(module)["forward"] = PackedLinear(module)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
