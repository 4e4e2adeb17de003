"""The kernels between a layer's products against plain operations in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.native_layer import NativeLayer
from guideway.workers.engine.model.kv_cache import KvCache

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
"""Largest difference, of numbers about as large as 1"""
HEADS, KV_HEADS, CAPACITY = 6, 2, 48

dtypes = pytest.mark.parametrize("dtype", native.DTYPES)


@pytest.fixture
def steps() -> NativeLayer:
    if (kernels := native.kernels()) is None:
        pytest.skip("no C compiler")
    return NativeLayer(kernels)


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("tokens", [1, 3, 200])
def test_norms(steps: NativeLayer, tokens: int, dtype: torch.dtype) -> None:
    h, delta = (normal(2, tokens, 330, dtype=dtype, seed=seed) for seed in (1, 2))
    weight = normal(330, dtype=dtype)

    def exact(total: Tensor) -> Tensor:
        return functional.rms_norm(total.double(), weight.shape, weight.double(), 1e-5)

    alone, normalised = steps.norm(h, weight, 1e-5)
    assert alone is h
    near(normalised, exact(h), dtype)
    total, normalised = steps.norm(h, weight, 1e-5, delta)
    assert torch.equal(total, h + delta)
    near(normalised, exact(total), dtype)


@dtypes
@pytest.mark.parametrize("tokens", [1, 200])
def test_gates(steps: NativeLayer, tokens: int, dtype: torch.dtype) -> None:
    both = normal(2, tokens, 2 * 301, dtype=dtype) * 10
    gate, up = both.double().chunk(2, dim=-1)
    ours = steps.gate(both)
    near(ours, functional.silu(gate) * up, dtype)
    far = torch.tensor([[-1e38, -300.0, -90.0, 300.0, 1.0, 1.0, 1.0, 1.0]], dtype=dtype)
    torch.testing.assert_close(steps.gate(far), torch.tensor([[0.0, 0.0, 0.0, 300.0]], dtype=dtype))


def filled(dtype: torch.dtype, dim: int, slots: slice, positions: Tensor) -> KvCache:
    """A cache of 5 slots, about to see `slots`; what no row has written yet is not a number, for nobody may read it."""
    cache = KvCache(max_rows=5, max_tokens=CAPACITY, max_bytes=2**24)
    first = torch.zeros(1, KV_HEADS, 1, dim, dtype=dtype)
    cache.see(slice(0, 1), torch.zeros(1, 1, dtype=torch.long), 1)
    cache.update(first, first, 0)
    cache.reserve(5, CAPACITY)
    for seed, kept in enumerate(cache.kept(0)):
        kept.fill_(math.nan)
        for slot, position in zip(range(slots.start, slots.stop), positions.flatten().tolist(), strict=True):
            kept[slot, :, :position] = normal(KV_HEADS, position, dim, dtype=dtype, seed=10 * slot + seed)
    cache.see(slots, positions, int(positions.max()) + 1)
    return cache


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [heads, dim] rotated; cos and sin [dim], sin with signs."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def exactly(row: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """What one row's query attends to, in float64.

    row [heads + 2 kv_heads, dim]; keys and values [kv_heads, before, dim], without its own."""
    q, k, v = row[:HEADS], row[HEADS:-KV_HEADS], row[-KV_HEADS:]
    keys = torch.cat([keys, turned(k, cos, sin)[:, None]], dim=1).repeat_interleave(HEADS // KV_HEADS, dim=0)
    values = torch.cat([values, v[:, None]], dim=1).repeat_interleave(HEADS // KV_HEADS, dim=0)
    scores = (keys @ turned(q, cos, sin)[:, :, None])[:, :, 0] * scale
    return (scores.softmax(-1)[:, None] @ values).flatten()


@dtypes
@pytest.mark.parametrize("dim", [10, 64, 128])
def test_each_query_attends_to_its_own_row_up_to_itself(steps: NativeLayer, dim: int, dtype: torch.dtype) -> None:
    slots, positions = slice(1, 4), torch.tensor([[0], [CAPACITY - 1], [7]])
    cache = filled(dtype, dim, slots, positions)
    before = [kept.clone() for kept in cache.kept(0)]
    qkv = normal(3, 1, (HEADS + 2 * KV_HEADS) * dim, dtype=dtype, seed=3)
    angles = torch.rand(3, 1, 1, dim // 2, generator=torch.Generator().manual_seed(4)) * 6
    cos, sin = angles.cos().repeat(1, 1, 1, 2), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    scale = dim**-0.5
    out = steps.attend_one(qkv, cos, sin, cache, 0, heads=HEADS, scale=scale)
    for i, (slot, position) in enumerate(zip(range(1, 4), positions.flatten().tolist(), strict=True)):
        row = qkv[i].view(-1, dim).double()
        turns = cos[i].flatten().double(), sin[i].flatten().double()
        keys, values = (kept[slot, :, :position].double() for kept in before)
        near(out[i, 0], exactly(row, *turns, keys, values, scale), dtype)
        new_keys, new_values = (kept[slot, :, position] for kept in cache.kept(0))
        near(new_keys, turned(row[HEADS : HEADS + KV_HEADS], *turns), dtype)
        assert torch.equal(new_values, row[HEADS + KV_HEADS :].to(dtype))
    for kept, was in zip(cache.kept(0), before, strict=True):
        kept[range(1, 4), :, positions[:, 0]] = was[range(1, 4), :, positions[:, 0]]
        assert torch.equal(kept.nan_to_num(9), was.nan_to_num(9))


def test_a_row_that_went_wrong_is_alone_with_it(steps: NativeLayer) -> None:
    cache = filled(torch.float32, 64, slice(0, 2), torch.tensor([[4], [4]]))
    cache.kept(0)[0][0, 0, 2] = math.nan
    qkv, cos = normal(2, 1, (HEADS + 2 * KV_HEADS) * 64, dtype=torch.float32), torch.ones(2, 1, 1, 64)
    out = steps.attend_one(qkv, cos, torch.zeros_like(cos), cache, 0, heads=HEADS, scale=0.1)
    assert out[0, 0, : 64 * HEADS // KV_HEADS].isnan().all()
    assert out[1].isfinite().all()


@pytest.mark.parametrize("position", [-1, CAPACITY])
def test_a_query_outside_of_the_cache_is_refused(steps: NativeLayer, position: int) -> None:
    cache = filled(torch.float32, 64, slice(0, 1), torch.tensor([[4]]))
    cache.positions[:] = position
    qkv, cos = normal(1, 1, (HEADS + 2 * KV_HEADS) * 64, dtype=torch.float32), torch.ones(1, 1, 1, 64)
    with pytest.raises(IndexError):
        steps.attend_one(qkv, cos, cos, cache, 0, heads=HEADS, scale=0.1)


@pytest.mark.parametrize(
    ("rows", "heads", "dtype"), [(3, 6, torch.float32), (2, 4, torch.float32), (2, 6, torch.bfloat16)]
)
def test_shapes_that_do_not_fit_are_refused(steps: NativeLayer, rows: int, heads: int, dtype: torch.dtype) -> None:
    cache = filled(torch.float32, 64, slice(0, 2), torch.tensor([[4], [4]]))
    qkv, cos = normal(rows, 1, (HEADS + 2 * KV_HEADS) * 64, dtype=dtype), torch.ones(rows, 1, 1, 64)
    with pytest.raises(ValueError, match="do not fit"):
        steps.attend_one(qkv, cos, cos, cache, 0, heads=heads, scale=0.1)
