"""Where adapters of linear modules act: at the module itself, or at the one product of several joined linears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.guidance.folded_adapters import FoldedAdapters
from guideway.workers.engine.kernels.joined import JoinedLinear


class AdapterBackend(Protocol):
    """The changes of all seated rows at one place; owner of its hooks. Slots are those of the KV cache."""

    @property
    def is_used(self) -> bool: ...

    def seat(self, slot: int, changes: Sequence[FoldedAdapters | None]) -> None:
        """Put what a new row changes at each member, None where nothing, into its slot, which is empty."""

    def leave(self, slot: int, last: int) -> None:
        """The row in `slot` goes, and the one in the `last` slot in use takes its place."""

    def swap(self, one: int, other: int) -> None:
        """The rows in these two slots change places."""

    def see(self, slots: slice) -> None:
        """The next forward pass runs these slots."""

    def unhook(self) -> None:
        """Act no more."""


def members_of(module: nn.Module) -> list[nn.Module]:
    """The linear modules whose outputs `module` puts side by side."""
    return list(module.members) if isinstance(module, JoinedLinear) else [module]


def size_of(member: nn.Module) -> tuple[int, int]:
    """(in, out)"""
    if isinstance(member, Conv1D):
        return member.nx, member.nf
    assert isinstance(member, nn.Linear)
    return member.in_features, member.out_features


def by_row(x: Tensor, rows: int) -> Tensor:
    """`x` as [rows, tokens, features]: some models flatten rows and tokens before a linear module."""
    return x if x.dim() == 3 else x.view(rows, -1, x.shape[-1])
