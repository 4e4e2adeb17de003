"""The place where adapters of linear modules act: the module itself, or the one product of several joined linears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.guidance.folded_adapters import FoldedAdapters
from guideway.workers.engine.kernels.joined import JoinedLinear


class AdapterBackend(Protocol):
    """The changes of all seated rows' outputs at one place; owner of its hooks. Slots are those of the KV cache."""

    @property
    def is_used(self) -> bool:
        """Whether a seated row changes something here."""

    def seat(self, slot: int, changes: Sequence[FoldedAdapters | None]) -> None:
        """Put a new row's change of each member into its slot, which is empty; None for a member without a change."""

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""

    def see(self, slots: slice, counts: Sequence[int] | None = None) -> None:
        """Let the next forward pass run these slots. counts: the tokens of each row where the pass is ragged, one row's
        behind the other's; None where rows are padded to the same number."""

    def unhook(self) -> None:
        """Remove the hooks."""


def members_of(module: nn.Module) -> list[nn.Module]:
    """The linear modules whose outputs `module` puts side by side."""
    return list(module.members) if isinstance(module, JoinedLinear) else [module]


def size_of(member: nn.Module) -> tuple[int, int]:
    """(in, out) features of a linear module."""
    if isinstance(member, Conv1D):
        return member.nx, member.nf
    assert isinstance(member, nn.Linear)
    return member.in_features, member.out_features


def by_row(x: Tensor, rows: int) -> Tensor:
    """`x` as [rows, tokens, features]; some models flatten rows and tokens before a linear module."""
    return x if x.dim() == 3 else x.view(rows, -1, x.shape[-1])
