"""Forbidding and choosing tokens by the kernels of `choice.c`, on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from guideway.workers.engine.kernels import native

_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final = {
    "gw_choose": [_INT, _INT, *[_AT] * 6, _INT, _AT],
    "gw_mask": [_INT, _INT, _INT, _AT, _AT, _AT, _INT, _AT],
}


def mask_(kernels: ctypes.CDLL, logits: Tensor, rows: Sequence[int], bitmask: np.ndarray[Any, Any]) -> None:
    """logits[rows[i], t] = -inf where bit t of bitmask[i] is 0; in place.

    logits float32 [all rows, vocabulary], bitmask int32 [rows, ⌈vocabulary / 32⌉]. Raises: ValueError where they do not
    fit together, because the kernel does not check.
    """
    count, vocabulary = logits.shape
    fits = logits.dtype == torch.float32 and logits.is_contiguous() and bitmask.dtype == np.int32
    if not fits or bitmask.shape != (len(rows), -(-vocabulary // 32)) or not all(0 <= row < count for row in rows):
        raise ValueError(f"masks {bitmask.shape} do not fit logits {tuple(logits.shape)} in {logits.dtype}")
    native.declare(kernels, _ARGUMENTS)
    at, bits = np.array(rows, dtype=np.int64), np.ascontiguousarray(bitmask)
    parallel = native.parallel()
    threads = torch.get_num_threads() if parallel else 1
    kernels.gw_mask(
        len(rows), vocabulary, bits.shape[1], at.ctypes.data, bits.ctypes.data, logits.data_ptr(), threads, parallel
    )


class NativeChoice:
    """How some rows choose; owner of the numbers that the kernel reads of them."""

    def __init__(
        self, kernels: ctypes.CDLL, *, inverse: Sequence[float], top_p: Sequence[float], seeds: Sequence[int]
    ) -> None:
        """Of each row: inverse: 1 / temperature, 0 for the likeliest token. seeds: of 64 bits."""
        native.declare(kernels, _ARGUMENTS)
        self._kernels = kernels
        self._inverse = np.array(inverse, dtype=np.float32)
        self._top_p = np.array(top_p, dtype=np.float64)
        self._seeds = np.array(seeds, dtype=np.uint64)

    def choose(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """The next token of each row, -1 where it has no finite maximum; see `BatchedSampler.choose`.

        Raises: ValueError where tensors do not fit together, because the kernel does not check; MemoryError.
        """
        rows, vocabulary = logits.shape
        at = np.array(places, dtype=np.int64)
        if logits.dtype != torch.float32 or not rows == len(self._seeds) == len(at):
            raise ValueError(f"{len(self._seeds)} rows choose, and logits are {tuple(logits.shape)} in {logits.dtype}")
        logits = logits.contiguous()
        tokens = torch.empty(rows, dtype=torch.int64)
        parallel = native.parallel()
        failed = self._kernels.gw_choose(
            rows,
            vocabulary,
            logits.data_ptr(),
            self._inverse.ctypes.data,
            self._top_p.ctypes.data,
            self._seeds.ctypes.data,
            at.ctypes.data,
            tokens.data_ptr(),
            torch.get_num_threads() if parallel else 1,
            parallel,
        )
        if failed:
            raise MemoryError("no memory to choose tokens")
        return tokens
