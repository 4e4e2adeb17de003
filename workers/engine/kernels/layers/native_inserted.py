"""Inserted layers of all seated rows after one decoder layer, by the kernel of `inserted.c`, on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from guideway.workers.engine.guidance.inserted_layer import Block
from guideway.workers.engine.kernels import native

_FIELDS: Final = 5
"""Of the kernel's `Block`: down, up, rank, activation, eps; each of 64 bits"""
_ACTIVATIONS: Final = ("gelu", "silu", "relu")
"""In the order of the kernel's"""
_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final = {"gw_insert": [_INT, _INT, _INT, _INT, _AT, _AT, _AT, _AT, _INT, _AT]}


class NativePlace:
    """The blocks of all seated rows after one decoder layer, left where they are; owner of its hook and of a table,
    with lines for each slot, that tells the kernel their addresses. Slots are those of the KV cache.
    """

    def __init__(self, layer: nn.Module, max_rows: int, kernels: ctypes.CDLL) -> None:
        """layer: one that computes on a CPU, in one of `native.DTYPES`."""
        native.declare(kernels, _ARGUMENTS)
        self._kernels = kernels
        self._held: list[Sequence[Block]] = [[] for _ in range(max_rows)]
        self._table = np.zeros((max_rows, 1, _FIELDS), dtype=np.int64)
        # What the next forward pass sees
        self._slots = slice(0, 0)
        self._counts: Sequence[int] | None = None
        self._changes = False
        self._firsts = np.zeros(1, dtype=np.int64)
        """[rows + 1]: the first token of each row, and the number of tokens"""
        self._hook = layer.register_forward_hook(self._insert)

    @property
    def is_used(self) -> bool:
        """Whether a seated row has a block here."""
        return any(self._held)

    def seat(self, slot: int, blocks: Sequence[Block]) -> None:
        """Put the blocks of a new row, in the order in which they apply, into its slot, which is empty."""
        rows, deep, _ = self._table.shape
        if len(blocks) > deep:
            wider = np.zeros((rows, len(blocks), _FIELDS), dtype=np.int64)
            wider[:, :deep] = self._table
            self._table = wider
        self._held[slot] = [_ready(block) for block in blocks]
        for line, block in zip(self._table[slot], self._held[slot], strict=False):
            numbers = block.down.data_ptr(), block.up.data_ptr(), len(block.down), _ACTIVATIONS.index(block.activation)
            line[:4] = numbers
            line[4:].view(np.float64)[0] = block.norm_eps

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        self._table[slot], self._held[slot] = self._table[last], self._held[last]
        self._table[last], self._held[last] = 0, []

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        self._table[[one, other]] = self._table[[other, one]]
        self._held[one], self._held[other] = self._held[other], self._held[one]

    def see(self, slots: slice, counts: Sequence[int] | None) -> None:
        """Let the next forward pass run these slots, ragged with `counts` tokens or padded."""
        self._slots, self._counts = slots, counts
        self._changes = any(self._held[slots])
        if counts is not None:
            self._firsts = np.cumsum([0, *counts])

    def unhook(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def _insert(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._changes:
            return None
        changed = self._through(output[0] if isinstance(output, tuple) else output)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _through(self, h: Tensor) -> Tensor:
        """h [rows, tokens, hidden], or ragged [1, all tokens, hidden], after the blocks of the rows seen."""
        rows, hidden = self._slots.stop - self._slots.start, h.shape[-1]
        tokens = h.numel() // hidden
        if self._counts is None and not tokens % rows:
            self._firsts = np.arange(rows + 1) * (tokens // rows)
        held = [block for blocks in self._held[self._slots] for block in blocks]
        if (
            len(self._firsts) != rows + 1
            or self._firsts[-1] != tokens
            or h.dtype not in native.DTYPES
            or any(block.down.shape[1] != hidden for block in held)
        ):
            raise ValueError(f"inserted layers got {tuple(h.shape)} in {h.dtype} for {rows} rows, {self._counts}")
        h = h.contiguous()
        out = torch.empty_like(h)
        failed = self._kernels.gw_insert(
            rows,
            self._table.shape[1],
            hidden,
            h.dtype == torch.bfloat16,
            self._firsts.ctypes.data,
            self._table.ctypes.data + self._slots.start * self._table.strides[0],
            h.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
            native.parallel(),
        )
        if failed:
            raise MemoryError("no memory for the sums of inserted layers")
        return out


def _ready(block: Block) -> Block:
    """`block` as the kernel reads it: float32, side by side."""
    down, up = block.down.float().contiguous(), block.up.float().contiguous()
    return block if down is block.down and up is block.up else Block(down, up, block.activation, block.norm_eps)
