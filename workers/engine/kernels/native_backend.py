"""Changes of linear modules' outputs by the kernels of `adapter.c`, on a CPU in float32 and bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from guideway.workers.engine.guidance.folded_adapters import FoldedAdapters
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.backend import members_of, size_of

_FIELDS: Final = 6
"""Of the kernels' `FoldedAdapters`: a, b, rank, in_scale, out_scale, out_shift; each of 64 bits"""
_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final = {
    "gw_change_outputs": [_INT, _INT, _INT, _INT, _AT, _AT, _AT, _AT, _AT, _INT, _AT],
    "gw_scale_inputs": [_INT, _INT, _INT, _INT, _INT, _INT, _AT, _AT],
}


class NativeBackend:
    """An `AdapterBackend` that leaves each row's tensors where they are; owner of a table, with a line for each slot,
    that tells the kernels their addresses.

    A row that comes, goes or moves costs one line, and a pass costs as much as the ranks of its own rows.
    """

    def __init__(self, module: nn.Module, max_rows: int, kernels: ctypes.CDLL) -> None:
        """module: one whose linears compute on a CPU, in one of `native.DTYPES`."""
        members = members_of(module)
        sizes = np.array([size_of(member) for member in members], dtype=np.int64)
        self._module = module
        native.declare(kernels, _ARGUMENTS)
        self._kernels = kernels
        self._dtype = next(members[0].parameters()).dtype
        self._in, self._out = np.ascontiguousarray(sizes[:, 0]), np.ascontiguousarray(sizes[:, 1])
        self._in_at: int = self._in.ctypes.data
        self._out_at: int = self._out.ctypes.data
        self._widths: list[int] = self._in.tolist()
        self._all_out = int(self._out.sum())
        self._table = np.zeros((max_rows, len(members), _FIELDS), dtype=np.int64)
        self._table_at: int = self._table.ctypes.data
        self._held: list[list[Tensor]] = [[] for _ in range(max_rows)]
        """What the table points to, by slot"""
        self._after = module.register_forward_hook(self._change_output)
        self._before: RemovableHandle | None = None
        # What the next forward pass sees
        self._slots = slice(0, 0)
        self._scaled: list[int] = []
        """The members at which one of its rows scales what goes in"""
        self._changes = False

    @property
    def is_used(self) -> bool:
        """Whether a seated row changes something here."""
        return any(self._held)

    def seat(self, slot: int, changes: Sequence[FoldedAdapters | None]) -> None:
        """Put a new row's change of each member into its slot, which is empty."""
        for member, change in enumerate(changes):
            if change is None:
                continue
            factors = [part.to(self._dtype).contiguous() for part in (change.a, change.b) if len(change.a)]
            vectors = [
                None if vector is None else vector.float().contiguous()
                for vector in (change.in_scale, change.out_scale, change.out_shift)
            ]
            self._held[slot] += [*factors, *(vector for vector in vectors if vector is not None)]
            a, b = (factor.data_ptr() for factor in factors) if factors else (0, 0)
            others = [0 if vector is None else vector.data_ptr() for vector in vectors]
            self._table[slot, member] = (a, b, len(change.a), *others)
        if self._before is None and self._table[slot, :, 3].any():
            self._before = self._module.register_forward_pre_hook(self._change_input)

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        self._table[slot], self._held[slot] = self._table[last], self._held[last]
        self._table[last], self._held[last] = 0, []

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        self._table[[one, other]] = self._table[[other, one]]
        self._held[one], self._held[other] = self._held[other], self._held[one]

    def see(self, slots: slice) -> None:
        """Let the next forward pass run these slots."""
        self._slots = slots
        seen = self._table[slots]
        self._scaled = np.flatnonzero(seen[:, :, 3].any(axis=0)).tolist()
        self._changes = bool(seen[:, :, [2, 4, 5]].any())

    def unhook(self) -> None:
        """Remove the hooks."""
        self._after.remove()
        if self._before is not None:
            self._before.remove()

    def _change_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not self._scaled:
            return None
        (x,), (rows, members) = args, self._shape
        inputs = [x] * members
        for member in self._scaled:
            own = inputs[member] = x.clone(memory_format=torch.contiguous_format)
            self._kernels.gw_scale_inputs(
                rows,
                self._tokens(own, self._widths[member]),
                members,
                member,
                own.dtype == torch.bfloat16,
                own.shape[-1],
                own.data_ptr(),
                self._seen_table,
            )
        return tuple(inputs)

    def _change_output(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Changes `output` [rows, tokens, out] in place: a linear module's output is nobody else's."""
        if not self._changes:
            return None
        rows, members = self._shape
        inputs = [x.contiguous() for x in args]
        # A copy only where some model's linear gives a view.
        y = output.contiguous()
        tokens = self._tokens(y, self._all_out)
        if len(inputs) == 1:
            inputs *= members
        for x, width in zip(inputs, self._widths, strict=True):
            if self._tokens(x, width) != tokens:
                raise ValueError(f"a linear got {tuple(x.shape)} and gave {tuple(y.shape)} for {rows} rows")
        failed = self._kernels.gw_change_outputs(
            rows,
            tokens,
            members,
            y.dtype == torch.bfloat16,
            self._in_at,
            self._out_at,
            (ctypes.c_void_p * members)(*(x.data_ptr() for x in inputs)),
            y.data_ptr(),
            self._seen_table,
            torch.get_num_threads(),
            native.parallel(),
        )
        if failed:
            raise MemoryError("no memory for the sums of adapters")
        return y

    def _tokens(self, x: Tensor, width: int) -> int:
        """Of each row of x, which is [rows, tokens, width] or the same with rows and tokens flattened.

        Raises ValueError where the kernels would read or write beyond: they trust the sizes that they are told.
        """
        rows, _ = self._shape
        tokens, left = divmod(x.numel(), rows * width)
        if left or x.shape[-1] != width or (x.dim() == 3 and len(x) != rows) or x.dtype != self._dtype:
            had = f"{tuple(x.shape)} in {x.dtype}"
            raise ValueError(f"a linear of {width} features in {self._dtype} got or gave {had} for {rows} rows")
        return tokens

    @property
    def _shape(self) -> tuple[int, int]:
        """(rows, members)"""
        return self._slots.stop - self._slots.start, len(self._in)

    @property
    def _seen_table(self) -> int:
        return self._table_at + self._slots.start * self._table.strides[0]
