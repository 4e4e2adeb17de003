"""Changes of linear modules' outputs by operations of torch, for any device and dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from guideway.workers.engine.guidance.folded_adapters import FoldedAdapters
from guideway.workers.engine.kernels.backend import by_row, members_of, size_of
from guideway.workers.engine.kernels.slab import ByRow, Seen, Slab


class TorchBackend:
    """An `AdapterBackend` that copies each change into slabs, which it owns, once for all rows that have it.

    Rows with the same LoRAs are side by side in the products. r is the largest rank among the rows seen; smaller ranks
    are filled with zeros. A row without a scale has ones, and one without a shift zeros.
    """

    def __init__(self, module: nn.Module, max_rows: int) -> None:
        self._module = module
        self._members = [_Member(max_rows) for _ in members_of(module)]
        self._widths = [size_of(member)[1] for member in members_of(module)]
        self._rows = 0
        self._after = module.register_forward_hook(self._change_output)
        self._before: RemovableHandle | None = None

    @property
    def is_used(self) -> bool:
        """Whether a seated row changes something here."""
        return any(slab.is_used for member in self._members for slab in member.slabs)

    def seat(self, slot: int, changes: Sequence[FoldedAdapters | None]) -> None:
        """Put a new row's change of each member into its slot, which is empty."""
        for member, change in zip(self._members, changes, strict=True):
            if change is not None:
                member.seat(slot, change)
        if self._before is None and any(member.in_scale.is_used for member in self._members):
            self._before = self._module.register_forward_pre_hook(self._change_input)

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        for member in self._members:
            for slab in member.slabs:
                slab.leave(slot, last)

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        for member in self._members:
            for slab in member.slabs:
                slab.swap(one, other)

    def see(self, slots: slice, counts: Sequence[int] | None = None) -> None:
        """Let the next forward pass run these slots."""
        assert counts is None, "ragged passes are made where the kernels in C are"
        self._rows = slots.stop - slots.start
        for member in self._members:
            member.see(slots)

    def unhook(self) -> None:
        """Remove the hooks."""
        self._after.remove()
        if self._before is not None:
            self._before.remove()

    def _change_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        x = args[0]
        scales = [member.i for member in self._members]
        if all(scale is None for scale in scales):
            return None
        rows = by_row(x, self._rows)
        return tuple(x if scale is None else (rows * scale.value).to(x.dtype).view_as(x) for scale in scales)

    def _change_output(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Changes `output` [rows, tokens, out] in place: a linear module's output is nobody else's."""
        parts = torch.split(by_row(output, self._rows), self._widths, dim=-1)
        inputs = args if len(args) == len(parts) else args * len(parts)
        for member, x, y in zip(self._members, inputs, parts, strict=True):
            member.change(by_row(x, self._rows), y)


class _Member:
    """The changes of all seated rows at one linear module."""

    def __init__(self, max_rows: int) -> None:
        self._factors: Slab[FoldedAdapters] = Slab(max_rows)
        self.in_scale: Slab[FoldedAdapters] = Slab(max_rows, nothing=1)
        self._out_scale: Slab[FoldedAdapters] = Slab(max_rows, nothing=1)
        self._out_shift: Slab[FoldedAdapters] = Slab(max_rows, nothing=0)
        self.slabs = (self._factors, self.in_scale, self._out_scale, self._out_shift)
        # What the next forward pass sees
        self._seen: tuple[Seen, Seen] | None = None
        self.i: ByRow | None = None
        self._s: ByRow | None = None
        self._t: ByRow | None = None

    def seat(self, slot: int, change: FoldedAdapters) -> None:
        if len(change.a):
            self._factors.put(slot, change, change.a, change.b)
        for slab, vector in (
            (self.in_scale, change.in_scale),
            (self._out_scale, change.out_scale),
            (self._out_shift, change.out_shift),
        ):
            if vector is not None:
                slab.put(slot, change, vector[None])

    def see(self, slots: slice) -> None:
        self._seen = self._factors.grouped(slots)
        self.i, self._s, self._t = (slab.by_row(slots) for slab in self.slabs[1:])

    def change(self, x: Tensor, y: Tensor) -> None:
        """x [rows, tokens, in]; y [rows, tokens, out] in place."""
        if self._s is not None:
            y.mul_(self._s.value)
        if self._t is not None:
            y.add_(self._t.value)
        if self._seen is None:
            return
        # One token a row: in float32 these small products take a third of the time that bfloat16 takes on CPU.
        seen, dtype = (self._seen[0], torch.float32) if y.shape[1] == 1 else (self._seen[1], x.dtype)
        groups, (a, b) = seen.groups, seen.tensors
        inner = torch.bmm(groups.gathered(x.to(dtype)), a.transpose(1, 2).to(dtype))
        groups.add(y, torch.bmm(inner, b.to(dtype)), out=y)
