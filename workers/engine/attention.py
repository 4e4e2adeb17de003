"""Who attends to whom."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guideway.schemas.failures import FailureCode, Refusal


def causal_mask(positions: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """mask[b, 0, q, k] = 0 if k <= positions[b, q], else the lowest value of `dtype`; it is added to the scores.

    positions [rows, queries]: where in its row each query stands. Result [rows, 1, queries, keys]. Prefill, decode and
    a chunk in the middle differ in their positions only. A padding query attends to whatever stands before it; what
    comes out is never read.
    """
    hidden = torch.arange(keys, device=positions.device) > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)


def causal_tokens(config: Any, most: int) -> int:
    """Up to how many tokens, and at most `most`, the causal mask is what a model of this configuration attends by.

    Where layers attend within a sliding window only, that is the window.
    Raises: Refusal `unknown_model_size` if the model has layers that do not attend at all, or otherwise.
    """
    text_config = config.get_text_config()
    kinds = set(getattr(text_config, "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise Refusal(
            FailureCode.UNKNOWN_MODEL_SIZE,
            f"the model has layers of kind {sorted(unknown)}, which the engine does not run: name another source",
        )
    window: int | None = getattr(text_config, "sliding_window", None)
    if window is None or kinds == {"full_attention"}:
        return most
    return min(most, window)
