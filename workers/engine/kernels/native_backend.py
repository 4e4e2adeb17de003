"""Changes of linear modules' outputs by the kernels of `adapter.c`, on a CPU in float32 and bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from guideway.workers.engine.guidance.folded_adapters import FoldedAdapters
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.backend import members_of, size_of
from guideway.workers.engine.kernels.linears.int8_linear import dtype_of
from guideway.workers.engine.model.kv_cache import Spans

_FIELDS: Final = 6
"""Of the kernels' `FoldedAdapters`: a, b, rank, in_scale, out_scale, out_shift; each of 64 bits"""
_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final = {
    "gw_change_outputs": [_INT, _INT, _INT, _AT, _AT, _AT, _AT, _AT, _AT, _INT, _AT],
    "gw_scale_inputs": [_INT, _INT, _INT, _INT, _INT, _AT, _AT, _AT],
}


class NotInOneCall(Exception):
    """What acts at a linear in this pass has to be called there."""


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
        self._dtype = dtype_of(members[0])
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
        self._counts: Sequence[int] | None = None
        """The tokens of each row, where the pass is ragged"""
        self._firsts = np.zeros(1, dtype=np.int64)
        """[rows + 1]: the first token of each row, and the number of tokens, as of the last pass"""
        self._scaled: list[int] = []
        """The members at which one of its rows scales what goes in"""
        self._changes = False

    @property
    def is_used(self) -> bool:
        """Whether a seated row changes something here."""
        return any(self._held)

    def seat(self, slot: int, changes: Sequence[FoldedAdapters | None]) -> None:
        """Put a new row's change of each member into its slot, which is empty."""
        scales = False
        for member, change in enumerate(changes):
            if change is None:
                continue
            line = _line_of(change, self._dtype)
            self._held[slot] += line.held
            self._table[slot, member] = line.numbers
            scales |= change.in_scale is not None
        if scales and self._before is None:
            self._before = self._module.register_forward_pre_hook(self._change_input)

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        self._table[slot], self._held[slot] = self._table[last], self._held[last]
        self._table[last], self._held[last] = 0, []

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        self._table[[one, other]] = self._table[[other, one]]
        self._held[one], self._held[other] = self._held[other], self._held[one]

    def see(self, slots: slice, counts: Sequence[int] | None = None) -> None:
        """Let the next forward pass run these slots, ragged with `counts` tokens or padded."""
        self._slots, self._counts = slots, counts
        if counts is not None:
            self._firsts = np.cumsum([0, *counts])
        seen = self._table[slots]
        self._scaled = np.flatnonzero(seen[:, :, 3].any(axis=0)).tolist()
        self._changes = bool(seen[:, :, [2, 4, 5]].any())

    def seen(self, spans: Spans) -> tuple[int, bool, bool]:
        """For a kernel that applies the adapters itself: the address of the table's lines of the rows seen, whether
        they change what comes out, and whether they scale what goes in.

        Raises: NotInOneCall where what goes into several linears is scaled; ValueError where they were told of another
        pass.
        """
        if self._scaled and len(self._in) > 1:
            raise NotInOneCall
        if self._counts != spans.counts or self._slots != spans.slots:
            raise ValueError(
                f"adapters were told of {self._counts} tokens of rows {self._slots}, and the pass has {spans}"
            )
        return self._seen_table, self._changes, bool(self._scaled)

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
                members,
                member,
                own.dtype == torch.bfloat16,
                own.shape[-1],
                self._firsts_at(own, self._widths[member]),
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
            members,
            y.dtype == torch.bfloat16,
            self._firsts.ctypes.data,
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

    def _firsts_at(self, x: Tensor, width: int) -> int:
        self._tokens(x, width)
        return int(self._firsts.ctypes.data)

    def _tokens(self, x: Tensor, width: int) -> int:
        """Of all rows of x, which is [rows, tokens, width] or ragged [1, all tokens, width], or the same flattened.

        Raises ValueError where the kernels would read or write beyond: they trust the sizes that they are told.
        """
        rows, _ = self._shape
        tokens, left = divmod(x.numel(), width)
        if self._counts is None and not tokens % rows and (len(self._firsts) != rows + 1 or self._firsts[-1] != tokens):
            self._firsts = np.arange(rows + 1) * (tokens // rows)
        leading = rows if self._counts is None else 1
        if (
            left
            or tokens != self._firsts[-1]
            or x.shape[-1] != width
            or (x.dim() == 3 and len(x) != leading)
            or x.dtype != self._dtype
        ):
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


@dataclass(frozen=True, eq=False)
class _Line:
    """A line of the table, and the tensors that it points to."""

    numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    held: Sequence[Tensor]


_LINES: Final[WeakKeyDictionary[FoldedAdapters, tuple[torch.dtype, _Line]]] = WeakKeyDictionary()


def _line_of(change: FoldedAdapters, dtype: torch.dtype) -> _Line:
    """The line of `change` where factors have this dtype; made once, for rows come often and adapters seldom."""
    known = _LINES.get(change)
    if known is not None and known[0] == dtype:
        return known[1]
    factors = [part.to(dtype).contiguous() for part in (change.a, change.b) if len(change.a)]
    vectors = [
        None if vector is None else vector.float().contiguous()
        for vector in (change.in_scale, change.out_scale, change.out_shift)
    ]
    a, b = (factor.data_ptr() for factor in factors) if factors else (0, 0)
    numbers = [a, b, len(change.a), *(0 if vector is None else vector.data_ptr() for vector in vectors)]
    line = _Line(np.array(numbers, dtype=np.int64), [*factors, *(vector for vector in vectors if vector is not None)])
    _LINES[change] = dtype, line
    return line


def adapters_at(module: nn.Module) -> NativeBackend | None:
    """What acts at `module`, None if nothing does. Raises: NotInOneCall where it is no such backend, or not alone."""
    if not module._forward_hooks and not module._forward_pre_hooks:
        return None
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    owner, *others = {getattr(hook, "__self__", None) for hook in hooks}
    if others or not isinstance(owner, NativeBackend):
        raise NotInOneCall
    return owner
