"""How the changes that a row makes at joined linears lie side by side, so that one pair of products is enough for all.

Linears that read the same x [rows, tokens, in] and have outputs of n1, n2, … chunks of c features, in all m chunks:
y[j, chunk k] += (x[j] A[j, owner(k)]ᵀ) B[j, k]
with A [rows, r · members, in], so that all of x Aᵀ is one product, and B [rows, m, r, c], so that the second is one of
rows · m pairs without a product by zero. One linear alone is the case of one member and one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.joined import JoinedLinear

Pair = tuple[Tensor, Tensor]
"""A [r, in] and B [r, out] of one linear"""


@dataclass(frozen=True, eq=False)
class Layout:
    """Of one place: a linear module alone, or several joined."""

    inputs: list[int]
    """Features that go into each member; the same number"""
    outputs: list[int]
    """Features that come out of each member"""
    chunk: int
    """c, the largest that divides them all"""
    owner: Tensor
    """[m]: whose each chunk is"""

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """module: JoinedLinear, nn.Linear or Conv1D."""
        members: Sequence[nn.Module] = module.members if isinstance(module, JoinedLinear) else [module]
        sizes = [_size(member) for member in members]
        outputs = [out for _, out in sizes]
        chunk = math.gcd(*outputs)
        owners = [i for i, out in enumerate(outputs) for _ in range(out // chunk)]
        device = next(members[0].parameters()).device
        return cls([into for into, _ in sizes], outputs, chunk, torch.tensor(owners, device=device))

    def factors(self, pairs: Sequence[Pair | None]) -> Pair:
        """A [r, members · in] and B [m, r, c] of one row; r is the largest rank among its members.

        pairs: of each member; float32.
        """
        there = [pair for pair in pairs if pair is not None]
        ranks = {len(a) for a, _ in there}
        if len(there) == len(pairs) and len(ranks) == 1:
            # Nothing to fill: views and one copy, since a row that is seated does this for every place.
            a = torch.stack([a for a, _ in there], dim=1).flatten(1) if len(pairs) > 1 else there[0][0]
            b = torch.cat([b.view(len(b), -1, self.chunk) for _, b in there], dim=1) if len(pairs) > 1 else None
            return a, there[0][1][None] if b is None else b.transpose(0, 1)
        rank = max(ranks, default=0)
        like = there[0][0] if there else torch.empty(0)
        a = like.new_zeros(rank, len(pairs), self.inputs[0])
        b = like.new_zeros(sum(self.outputs) // self.chunk, rank, self.chunk)
        first = 0
        for i, (pair, out) in enumerate(zip(pairs, self.outputs, strict=True)):
            last = first + out // self.chunk
            if pair is not None:
                own = len(pair[0])
                a[:own, i] = pair[0]
                b[first:last, :own] = pair[1].view(own, -1, self.chunk).transpose(0, 1)
            first = last
        return a.flatten(1), b

    def add_products_(self, inputs: Sequence[Tensor], a: Tensor, b: Tensor, y: Tensor) -> None:
        """y[j, chunk k] += (x[j] A[j, owner(k)]ᵀ) B[j, k], in place.

        inputs: x [rows, tokens, in], or one for each member; a [rows, r, members · in]; b [rows, m, r, c];
        y [rows, tokens, out]. One token a row is computed in float32, more in the dtype of y.
        """
        rows, tokens, _ = y.shape
        members, chunks, rank = len(self.inputs), len(self.owner), a.shape[1]
        # For one token a row, these small products take a third of the time that bfloat16 takes on CPU.
        dtype = torch.float32 if tokens == 1 else y.dtype
        a = a.view(rows, rank * members, -1).transpose(1, 2).to(dtype)
        if len(inputs) == 1:
            inner = torch.bmm(inputs[0].to(dtype), a)
        else:
            by_member = [torch.bmm(x.to(dtype), a[:, :, i::members]) for i, x in enumerate(inputs)]
            inner = torch.stack(by_member, dim=-1)
        b = b.flatten(0, 1).to(dtype)
        if chunks == 1:
            y.add_(torch.bmm(inner.view(rows, tokens, rank), b))
            return
        inner = inner.view(rows, tokens, rank, members).permute(0, 3, 1, 2)
        if chunks != members:
            inner = inner.index_select(1, self.owner)
        product = torch.bmm(inner.reshape(rows * chunks, tokens, rank), b).view(rows, chunks, tokens, self.chunk)
        y.view(rows, tokens, chunks, self.chunk).add_(product.transpose(1, 2))


def side_by_side(vectors: Sequence[Tensor | None], widths: Sequence[int], fill: float) -> Tensor | None:
    """The members' vectors one after the other, `fill` where one has none; None if none has one. Result [Σ widths]."""
    there = [vector for vector in vectors if vector is not None]
    if not there:
        return None
    return torch.cat([
        there[0].new_full((width,), fill) if vector is None else vector
        for vector, width in zip(vectors, widths, strict=True)
    ])  # fmt: skip


def _size(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features
