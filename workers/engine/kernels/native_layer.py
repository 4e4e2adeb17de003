"""What a decoder layer computes between its products, by kernels in C, on a CPU, float32 and bfloat16."""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from torch import Tensor

from guideway.workers.engine.kernels import native
from guideway.workers.engine.model.kv_cache import KvCache

_INT, _AT, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_ARGUMENTS: Final = {
    "gw_attend": [*[_INT] * 5, _AT, _AT, _AT, _INT, _AT, _AT, _FLOAT, _AT, _AT, _AT, _AT, _INT, _AT],
    "gw_norm": [_INT, _INT, _INT, _AT, _AT, _AT, _FLOAT, _AT, _AT, _INT, _AT],
    "gw_gate": [_INT, _INT, _INT, _AT, _AT, _INT, _AT],
}
_MOST_DIM: Final = 512
"""Of a head: so much room the kernel has for one key."""


class NativeLayer:
    """The steps between the products of any layer, in one of `native.DTYPES`. It holds nothing of a layer.

    Each method raises ValueError where tensors do not fit together, because the kernels do not check.
    """

    def __init__(self, kernels: ctypes.CDLL) -> None:
        native.declare(kernels, _ARGUMENTS)
        self.kernels = kernels
        self._parallel = native.parallel()

    def norm(self, h: Tensor, weight: Tensor, eps: float, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """t = h + delta (or h), and w ⊙ t / √(mean(t²) + eps); h, delta and both results [rows, tokens, hidden]."""
        width = h.shape[-1]
        fits = weight.dtype == h.dtype and weight.shape == (width,) and weight.is_contiguous()
        if not fits or (delta is not None and (delta.dtype != h.dtype or delta.shape != h.shape)):
            raise ValueError(
                f"a norm of {tuple(weight.shape)} in {weight.dtype} does not fit {tuple(h.shape)} in {h.dtype}"
            )
        h = h.contiguous()
        out = torch.empty_like(h)
        total = h if delta is None else torch.empty_like(h)
        delta = None if delta is None else delta.contiguous()
        self.kernels.gw_norm(
            h.numel() // width,
            width,
            h.dtype == torch.bfloat16,
            h.data_ptr(),
            None if delta is None else delta.data_ptr(),
            weight.data_ptr(),
            eps,
            None if delta is None else total.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
            self._parallel,
        )
        return total, out

    def gate(self, both: Tensor) -> Tensor:
        """silu(g) ⊙ u, [rows, tokens, width], of both = [g, u] side by side."""
        both = both.contiguous()
        out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
        self.kernels.gw_gate(
            out.numel() // out.shape[-1],
            out.shape[-1],
            out.dtype == torch.bfloat16,
            both.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
            self._parallel,
        )
        return out

    def attend(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: KvCache, layer: int, *, heads: int, scale: float
    ) -> Tensor:
        """softmax(scale · q Kᵀ) V for the tokens of a ragged pass, whose keys and values are put into the cache first.

        qkv [1, tokens, (heads + 2 kv_heads) · head_dim], not yet rotated; cos and sin float32 [1, tokens, 1, head_dim],
        sin with the signs of the rotation. Result [1, tokens, heads · head_dim]. A token attends to the positions up to
        its own in its own row, and costs as much as these. The body is long by its checks and its call alone.

        Raises: MemoryError without memory for the scores.
        """
        keys, values = cache.kept(layer)
        _, kv_heads, _, dim = keys.shape
        spans, qkv = cache.spans, qkv.contiguous()
        if spans is None or not (
            spans.slots.stop <= len(cache.table)
            and spans.rows == spans.slots.stop - spans.slots.start
            and qkv.numel() == spans.tokens * (heads + 2 * kv_heads) * dim
            and heads % kv_heads == dim % 2 == 0
            and dim <= _MOST_DIM
            and cos.numel() == sin.numel() == spans.tokens * dim
            and cos.dtype == sin.dtype == torch.float32
            and qkv.dtype == keys.dtype == values.dtype
            and keys.shape[1:] == values.shape[1:]
            and all(tensor.is_contiguous() for tensor in (keys, values, cos, sin))
        ):
            raise ValueError(f"{tuple(qkv.shape)} queries of {heads} heads do not fit the cache's rows, heads or dtype")
        out = qkv.new_empty(1, spans.tokens, heads * dim)
        table = cache.table
        failed = self.kernels.gw_attend(
            spans.rows,
            heads // kv_heads,
            kv_heads,
            dim,
            qkv.dtype == torch.bfloat16,
            spans.first.data_ptr(),
            spans.begins.data_ptr(),
            table.data_ptr() + spans.slots.start * table.stride(0) * table.element_size(),
            table.stride(0),
            cos.data_ptr(),
            sin.data_ptr(),
            scale,
            qkv.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
            self._parallel,
        )
        if failed:
            raise MemoryError("no memory for the scores of a query")
        return out
