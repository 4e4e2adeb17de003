"""Who attends to whom, and attention of one query per row without repeating heads."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

GROUPED: Final = "guideway_grouped"


def causal_mask(positions: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """mask[b, 0, q, k] = 0 if k <= positions[b, q], else the lowest value of `dtype`; it is added to the scores.

    positions [rows, queries]: where in its row each query stands. Result [rows, 1, queries, keys]. Prefill, decode and
    a chunk in the middle differ in their positions only. A padding query attends to whatever stands before it; what
    comes out is never read.
    """
    hidden = torch.arange(keys, device=positions.device) > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)


def grouped_attention(  # noqa: PLR0917  (transformers' signature)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """softmax(scaling · q kᵀ + mask) v, where the heads that share keys and values are one matrix.

    query [rows, heads, queries, dim]; key, value [rows, kv_heads, keys, dim]; mask [rows, 1, queries, keys].
    Result [rows, queries, heads, dim]. For one query per row; anything else goes to transformers' own function, as
    does an attention with further terms (soft cap, sinks, position bias).
    """
    rows, heads, queries, dim = query.shape
    further = any(kwargs.get(term) is not None for term in ("softcap", "s_aux", "position_bias"))
    if queries != 1 or attention_mask is None or further:
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    kv_heads = key.shape[1]
    grouped = query.view(rows, kv_heads, heads // kv_heads, dim)
    scores = torch.matmul(grouped, key.transpose(2, 3)).mul_(dim**-0.5 if scaling is None else scaling)
    weights = torch.softmax(scores.add_(attention_mask), dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights, value).view(rows, 1, heads, value.shape[-1]), None


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Give `model` grouped attention, if it runs on transformers' interface for attention functions."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(GROUPED, grouped_attention)
        model.set_attn_implementation(GROUPED)
