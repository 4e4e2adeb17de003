"""Which positions a query attends to."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(positions: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """mask[b, 0, q, k] = 0 if k <= positions[b, q], else the lowest value of `dtype`; it is added to the scores.

    positions [rows, queries]: where in its row each query stands. Result [rows, 1, queries, keys]. Prefill, decode and
    a chunk in the middle differ in their positions only. A padding query attends to whatever stands before it; its
    result is never read.
    """
    hidden = torch.arange(keys, device=positions.device) > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)
