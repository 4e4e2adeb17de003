"""A decoder layer of Llama's kind in one call of the kernels: products, what stands between them, and adapters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.native_backend import NativeBackend
from guideway.workers.engine.model.kv_cache import KvCache, Spans

_INT, _AT, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_ARGUMENTS: Final = {"gw_layer": [_AT] * 7}
_LINEARS: Final = 4
_MOST_DIM: Final = 512
"""Of a head: so much room the kernel has for one key."""


class _Linear(ctypes.Structure):
    _fields_ = [("inputs", _INT), ("outputs", _INT), ("members", _INT), ("int8", _INT), ("member", _AT)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _INT) for name in ("hidden", "heads", "kv_heads", "dim", "width", "bfloat16")),
        ("eps", _DOUBLE * 2),
        ("scale", _DOUBLE),
        ("norm", _AT * 2),
        ("linears", _Linear * _LINEARS),
    ]


class _Pass(ctypes.Structure):
    _fields_ = [
        *((name, _INT) for name in ("rows", "line", "threads")),
        *((name, _AT) for name in ("first", "begins", "pages", "cos", "sin", "parallel", "barrier")),
    ]


class _Adapters(ctypes.Structure):
    _fields_ = [("table", _AT), ("changes", _INT), ("scales", _INT)]


class Product(Protocol):
    """The product of a linear, or of several side by side, by the kernels."""

    @property
    def int8(self) -> bool:
        """Whether its weights have 8 bits."""

    inputs: int
    outputs: int
    dtype: torch.dtype
    members: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    """A `Member` of the kernels for each linear"""


@dataclass(frozen=True)
class Shape:
    """The numbers of a layer."""

    heads: int
    kv_heads: int
    dim: int
    """Of a head"""
    scale: float
    """Of the scores"""
    eps: tuple[float, float]
    """Of the norms before attention and before the gate"""


class NativePasses:
    """What all layers of a forward pass are told, derived once a pass; owner of what it points to."""

    def __init__(self) -> None:
        self._of: tuple[Spans, Tensor] | None = None
        self._held: list[Tensor] = []
        self.at = 0
        """Its address"""

    def see(self, cache: KvCache, spans: Spans, cos: Tensor, sin: Tensor, dim: int) -> None:
        """cos and sin: as for `NativeLayer.attend`. Raises: ValueError where they do not fit the cache's rows."""
        if self._of is not None and self._of[0] is spans and self._of[1] is cos:
            return
        if not (
            spans.slots.stop <= len(cache.table)
            and spans.rows == spans.slots.stop - spans.slots.start
            and cos.numel() == sin.numel() == spans.tokens * dim
            and cos.dtype == sin.dtype == torch.float32
            and cos.is_contiguous()
            and sin.is_contiguous()
        ):
            raise ValueError(
                f"turns {tuple(cos.shape)} in {cos.dtype} do not fit {spans.tokens} tokens of {spans.rows} rows"
            )
        table = cache.table
        self._held = [spans.first, spans.begins, table, cos, sin]
        self._pass = _Pass(
            spans.rows,
            table.stride(0),
            torch.get_num_threads(),
            spans.first.data_ptr(),
            spans.begins.data_ptr(),
            table.data_ptr() + spans.slots.start * table.stride(0) * table.element_size(),
            cos.data_ptr(),
            sin.data_ptr(),
            native.parallel(),
            native.barrier(),
        )
        self._of, self.at = (spans, cos), ctypes.addressof(self._pass)


class NativeDecoder:
    """One layer. h ← h + O attend(q, k, v); h ← h + D (silu(gate) ⊙ up), each part from a normalised h."""

    def __init__(
        self,
        kernels: ctypes.CDLL,
        shape: Shape,
        norms: Sequence[Tensor],
        products: Sequence[Product],
        passes: NativePasses,
    ) -> None:
        """norms: the weights of both; products: of q, k and v side by side, of o, of gate and up, and of down.

        Raises: ValueError where these do not fit together, because the kernels do not check.
        """
        native.declare(kernels, _ARGUMENTS)
        self._kernels, self._shape, self._passes = kernels, shape, passes
        self._held = (norms, products)
        hidden, turned = len(norms[0]), shape.heads * shape.dim
        self._hidden, self._dtype = hidden, norms[0].dtype
        width = products[3].inputs
        sizes = [(product.inputs, product.outputs) for product in products]
        wanted = [
            (hidden, turned + 2 * shape.kv_heads * shape.dim),
            (turned, hidden),
            (hidden, 2 * width),
            (width, hidden),
        ]
        if (
            sizes != wanted
            or shape.heads % shape.kv_heads
            or shape.dim % 2
            or shape.dim > _MOST_DIM
            or any(norm.shape != (hidden,) or not norm.is_contiguous() for norm in norms)
            or {self._dtype} != {*(norm.dtype for norm in norms), *(product.dtype for product in products)}
        ):
            raise ValueError(f"linears of {sizes} in {[p.dtype for p in products]} do not make a layer: {wanted}")
        self._layer = _Layer(
            hidden,
            shape.heads,
            shape.kv_heads,
            shape.dim,
            width,
            self._dtype == torch.bfloat16,
            (_DOUBLE * 2)(*shape.eps),
            shape.scale,
            (_AT * 2)(*(norm.data_ptr() for norm in norms)),
            (_Linear * _LINEARS)(
                *(_Linear(p.inputs, p.outputs, len(p.members), p.int8, p.members.ctypes.data) for p in products)
            ),
        )
        self._at = ctypes.addressof(self._layer)

    def __call__(
        self,
        h: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KvCache,
        layer: int,
        adapters: Sequence[NativeBackend | None],
    ) -> Tensor:
        """h [1, tokens, hidden] after the layer, of a ragged pass that `cache` has seen.

        cos and sin: as for `NativeLayer.attend`; adapters: what acts at each of the four products.
        Raises: MemoryError; ValueError where tensors do not fit together.
        """
        spans, (keys, values) = cache.spans, cache.kept(layer)
        kept = (self._shape.kv_heads, keys.shape[2], self._shape.dim)
        if (
            spans is None
            or h.shape != (1, spans.tokens, self._hidden)
            or not h.dtype == self._dtype == keys.dtype == values.dtype
            or keys.shape[1:] != kept
            or values.shape[1:] != kept
            or not (keys.is_contiguous() and values.is_contiguous())
        ):
            raise ValueError(f"{tuple(h.shape)} in {h.dtype} does not fit the cache's rows, heads or dtype")
        self._passes.see(cache, spans, cos, sin, self._shape.dim)
        h = h.contiguous()
        out = torch.empty_like(h)
        told = None
        if any(adapters):
            told = (_Adapters * _LINEARS)(
                *(_Adapters() if one is None else _Adapters(*one.seen(spans)) for one in adapters)
            )
        failed = self._kernels.gw_layer(
            self._at, self._passes.at, told, h.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr()
        )
        if failed:
            raise MemoryError("no memory for what a layer computes")
        return out
