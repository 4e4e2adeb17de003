"""All adapters of one row at one linear module, folded into one change of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guideway.workers.engine.guidance.ia3 import Scales
from guideway.workers.engine.guidance.lora import Factors


@dataclass(frozen=True, eq=False)
class FoldedAdapters:
    """y = s ⊙ (W (i ⊙ x) + b) + t + ((i ⊙ x) Aᵀ) B, on the model's device. Folded once, when the row is seated.

    A and B without rows, and i, s and t that are None, change nothing. LoRAs come first, joined along r. A DoRA scales
    everything before it and its own product, but not the module's bias b: hence the scale s and the shift t. IA3 then
    scales the whole output, or the input; several IA3 multiply.
    """

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[r, out]"""
    in_scale: Tensor | None = None
    """i [in], float32"""
    out_scale: Tensor | None = None
    """s [out], float32"""
    out_shift: Tensor | None = None
    """t [out], float32"""

    @classmethod
    def of(cls, factors: Sequence[Factors], scales: Sequence[Scales], module: nn.Module) -> FoldedAdapters:
        """Fold the factors and scales that one row has at `module`, each in the order in which they apply."""
        bias = module.bias
        assert bias is None or isinstance(bias, Tensor)
        a, b = [f.a for f in factors], [f.b for f in factors]
        shift: Tensor | None = None
        whole = _product([f.dora_scale for f in factors])
        for i, f in enumerate(factors):
            if f.dora_scale is not None:
                b[:i] = [earlier * f.dora_scale for earlier in b[:i]]
        if whole is not None and bias is not None:
            shift = (1 - whole) * bias.float()
        out_scale = _product([s.out for s in scales])
        if out_scale is not None:
            b = [each * out_scale for each in b]
            shift = None if shift is None else shift * out_scale
        return cls(
            a=_along_ranks(a),
            b=_along_ranks(b),
            in_scale=_product([s.into for s in scales]),
            out_scale=_product([whole, out_scale]),
            out_shift=shift,
        )


def _along_ranks(parts: Sequence[Tensor]) -> Tensor:
    """[Σ r, features] of parts [r, features]; one part alone is not copied."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts)) if parts else torch.zeros(0, 0)


def _product(vectors: Sequence[Tensor | None]) -> Tensor | None:
    """The product of those that are not None; None if all are."""
    product: Tensor | None = None
    for vector in vectors:
        if vector is not None:
            product = vector if product is None else product * vector
    return product
