"""What a decoder layer computes between its products, by the kernels of `layer.c`, on a CPU, float32 and bfloat16."""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from torch import Tensor

from guideway.workers.engine.kernels import native
from guideway.workers.engine.model.kv_cache import KvCache

_INT, _AT, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_ARGUMENTS: Final = {
    "gw_attend_one": [*[_INT] * 8, _AT, _AT, _AT, _FLOAT, _AT, _AT, _AT, _AT, _INT, _AT],
    "gw_norm": [_INT, _INT, _INT, _AT, _AT, _AT, _FLOAT, _AT, _AT, _INT, _AT],
    "gw_gate": [_INT, _INT, _INT, _AT, _AT, _INT, _AT],
}


class NativeLayer:
    """The steps between the products of any layer, in one of `native.DTYPES`. It holds nothing of a layer.

    Each method raises ValueError where tensors do not fit together, because the kernels do not check.
    """

    def __init__(self, kernels: ctypes.CDLL) -> None:
        native.declare(kernels, _ARGUMENTS)
        self._kernels = kernels
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
        self._kernels.gw_norm(
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
        self._kernels.gw_gate(
            out.numel() // out.shape[-1],
            out.shape[-1],
            out.dtype == torch.bfloat16,
            both.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
            self._parallel,
        )
        return out

    def attend_one(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: KvCache, layer: int, *, heads: int, scale: float
    ) -> Tensor:
        """softmax(scale · q Kᵀ) V for one query a row, whose own key and value are put into the cache first.

        qkv [rows, 1, (heads + 2 kv_heads) · head_dim], not yet rotated; cos and sin float32 [rows, 1, 1, head_dim], sin
        with the signs of the rotation. Result [rows, 1, heads · head_dim]. A query attends to the positions up to its
        own, whatever the length of the longest row. The body is long by its checks and its call alone.

        Raises: MemoryError without memory for the scores; IndexError if a position lies outside of the cache.
        """
        keys, values = cache.kept(layer)
        slots, kv_heads, capacity, dim = keys.shape
        rows, positions, qkv = len(qkv), cache.positions, qkv.contiguous()
        if not (
            cache.slots.stop <= slots
            and rows == cache.slots.stop - cache.slots.start == positions.numel()
            and positions.dtype == torch.int64
            and qkv.numel() == rows * (heads + 2 * kv_heads) * dim
            and heads % kv_heads == dim % 2 == 0
            and cos.numel() == sin.numel() == rows * dim
            and cos.dtype == sin.dtype == torch.float32
            and qkv.dtype == keys.dtype == values.dtype
            and keys.shape == values.shape
            and all(tensor.is_contiguous() for tensor in (keys, values, positions, cos, sin))
        ):
            raise ValueError(f"{rows} queries of {heads} heads do not fit the cache's rows, heads or dtype")
        out = qkv.new_empty(rows, 1, heads * dim)
        at = cache.slots.start * keys.stride(0) * keys.element_size()
        failed = self._kernels.gw_attend_one(
            rows,
            heads // kv_heads,
            kv_heads,
            dim,
            qkv.dtype == torch.bfloat16,
            keys.stride(0),
            keys.stride(1),
            capacity,
            positions.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            scale,
            qkv.data_ptr(),
            keys.data_ptr() + at,
            values.data_ptr() + at,
            out.data_ptr(),
            torch.get_num_threads(),
            self._parallel,
        )
        if failed == 1:
            raise MemoryError("no memory for the scores of a query")
        if failed:
            raise IndexError(f"a query stands outside of the cache's {capacity} tokens")
        return out
