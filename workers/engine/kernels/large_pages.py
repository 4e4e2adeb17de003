"""Memory in large pages, for what a step reads from one end to the other: weights.

Where a system gives large pages (2 MiB on x86-64) to those who ask only, as Linux mostly does, weights lie in pages of
4 KiB, and each of them has to be looked up at every step.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_PAGE: Final = 2**21
_CHUNK: Final = 2**25
"""Bytes that are asked for at once: tensors share pages."""
_LEAST: Final = 2**17
"""A smaller tensor is not worth it."""
_ALIGNED: Final = 64

_lock = threading.Lock()
_left: list[Tensor] = [torch.empty(0, dtype=torch.uint8)]
"""What is left of the last chunk"""


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU whose numbers nobody has set, in large pages if it is large and the system has them.

    It shares its memory with other such tensors, all of which keep it.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LEAST:
        return torch.empty(*shape, dtype=dtype)
    with _lock:
        if len(_left[0]) < size:
            _left[0] = _chunk(max(_CHUNK, size))
        found, _left[0] = _left[0][:size], _left[0][-(-size // _ALIGNED) * _ALIGNED :]
    return found.view(dtype).view(*shape)


def side_by_side(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of these tensors, on the CPU, one behind the other in memory of their own, which ends with the last."""
    sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors]
    whole = sum(sizes)
    # Whole pages only, or what is counted would be less than what is held.
    left = _own(whole, whole // _PAGE * _PAGE) if whole >= _PAGE else torch.empty(whole, dtype=torch.uint8)
    copies = []
    for tensor, size in zip(tensors, sizes, strict=True):
        copies.append(left[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor))
        left = left[size:]
    return copies


def zeros_to_be(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU, in memory of their own. A page of it is taken when it is written, and costs nothing before.

    Raises: OSError where the system does not promise so much.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    whole = mmap.mmap(-1, max(1, math.prod(shape)) * dtype.itemsize, flags=flags)
    return torch.frombuffer(whole, dtype=dtype, count=math.prod(shape)).view(*shape)


def _chunk(size: int) -> Tensor:
    size = -(-size // _PAGE) * _PAGE
    return _own(size, size)


def _own(size: int, large: int) -> Tensor:
    """So many bytes, of which the first `large` are in large pages if the system has them."""
    # What lies before the first page and behind the last number is never touched, and so takes no memory.
    whole = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    bytes_ = torch.frombuffer(whole, dtype=torch.uint8)
    first = -bytes_.data_ptr() % _PAGE
    if large and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            whole.madvise(mmap.MADV_HUGEPAGE, first, large)
    return bytes_[first : first + size]
