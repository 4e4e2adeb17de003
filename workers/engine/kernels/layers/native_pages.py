"""Keys and values of a row's first tokens into its pages and out of them, by a kernel, on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from guideway.workers.engine.kernels import native

_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final = {"gw_move_states": [_INT, _INT, _INT, _INT, _AT, _AT, _AT, _INT]}


def move_states(held: Tensor, pages: Sequence[Tensor], states: Sequence[Tensor], *, into: bool) -> bool:
    """Copy the states of one row's first tokens into its pages, or out of them. Returns whether it could.

    held: the numbers of the row's pages, int64; pages: of each layer, first its keys, then its values, each
    [all pages, heads, page tokens, dim]; states: the same of the row, each [heads, tokens, dim].
    """
    kernels, (first, *others) = native.kernels(), pages
    _, heads, page_tokens, dim = first.shape
    tokens = states[0].shape[1]
    alike = all(other.shape == first.shape and other.dtype == first.dtype for other in others)
    if (
        kernels is None
        or not alike
        or len(states) != len(pages)
        or any(state.shape != (heads, tokens, dim) or state.dtype != first.dtype for state in states)
        or any(tensor.device.type != "cpu" or not tensor.is_contiguous() for tensor in (*pages, *states, held))
        or held.dtype != torch.int64
        or len(held) * page_tokens < tokens
    ):
        return False
    native.declare(kernels, _ARGUMENTS)
    addresses = [(_AT * len(pages))(*(tensor.data_ptr() for tensor in tensors)) for tensors in (pages, states)]
    kernels.gw_move_states(len(pages), heads, dim * first.element_size(), tokens, held.data_ptr(), *addresses, into)
    return True
