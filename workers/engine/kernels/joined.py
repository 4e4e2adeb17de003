"""Linear modules that read the same input, computed as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from guideway.workers.engine.kernels.linears.floating_product import FloatingProduct, product_of
from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear, Int8Product
from guideway.workers.engine.kernels.linears.packed import PackedLinear, can_pack


class JoinedLinear(nn.Module):
    """y = [x W1ᵀ + b1, x W2ᵀ + b2, …], the outputs of several frozen linears side by side.

    It owns no weights of the model. In bfloat16 on a CPU it is one product by a packed copy; weights of 8 bits are
    packed themselves. Elsewhere each member computes its part, so that nothing is copied. Adapters of the members act
    through hooks here, not on the members.
    """

    def __init__(self, members: Sequence[nn.Linear]) -> None:
        super().__init__()
        # In a tuple, which keeps them out of this module's own parameters.
        self.members = tuple(members)
        ends = list(accumulate((member.out_features for member in members), initial=0))
        self.parts = [slice(*pair) for pair in pairwise(ends)]
        """The features of the output that are each member's."""
        same_bias = len({member.bias is None for member in members}) == 1
        self.product: FloatingProduct | Int8Product | None = product_of(*members)
        """The product by our own kernels, where they are the faster ones"""
        self._packed: PackedLinear | FloatingProduct | Int8Product | None = None
        if int8 := [member for member in members if isinstance(member, Int8Linear)]:
            self._packed = self.product = Int8Product(*int8) if len(int8) == len(members) else None
        elif members[0].weight.dtype == torch.bfloat16 and self.product is not None:
            self._packed = self.product
        elif same_bias and all(map(can_pack, members)):
            self._packed = PackedLinear(*members)

    def forward(self, *inputs: Tensor) -> Tensor:
        """y [rows, tokens, Σ out]. inputs: x [rows, tokens, in], or one for each member where adapters scale it."""
        if len(inputs) > 1:
            return torch.cat([member(x) for member, x in zip(self.members, inputs, strict=True)], dim=-1)
        if self._packed is not None:
            return self._packed(inputs[0])
        return torch.cat([member(inputs[0]) for member in self.members], dim=-1)


def product_at(linear: nn.Linear) -> FloatingProduct | Int8Product | None:
    """The product of one linear by our own kernels; None where torch's is faster."""
    return linear.product if isinstance(linear, Int8Linear) else product_of(linear)
