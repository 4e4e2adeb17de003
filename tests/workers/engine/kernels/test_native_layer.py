"""The kernels between a layer's products against plain operations in float64."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.native_layer import NativeLayer
from guideway.workers.engine.model.kv_cache import PAGE_TOKENS, KvCache

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
"""Largest difference, of numbers about as large as 1"""
HEADS, KV_HEADS, MOST = 6, 2, 480

dtypes = pytest.mark.parametrize("dtype", native.DTYPES)


@pytest.fixture
def steps(kernels: ctypes.CDLL) -> NativeLayer:
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


def filled(dtype: torch.dtype, dim: int, befores: list[int]) -> KvCache:
    """A cache of slots that hold so many tokens; what no row has written yet is not a number: nobody may read it."""
    cache = KvCache(max_rows=len(befores), max_bytes=2**28)
    first = torch.zeros(1, KV_HEADS, 1, dim, dtype=dtype)
    cache.reserve(0, 1)
    cache.see(slice(0, 1), torch.zeros(1, 1, dtype=torch.long), 1)
    cache.update(first, first, 0)
    cache.leave(0, 0)
    # Pages come in turns, so that those of a row are no neighbours.
    for tokens in range(0, MOST, PAGE_TOKENS):
        for slot in range(len(befores)):
            cache.reserve(slot, tokens + 1)
    for kept in cache.kept(0):
        kept.fill_(math.nan)
    for slot, before in enumerate(befores):
        if before:
            cache.put(slot, [tuple(normal(KV_HEADS, before, dim, dtype=dtype, seed=10 * slot + i) for i in (0, 1))])  # type: ignore[list-item]
            # The rest of the last page is zero now, and it could be anything.
            page, used = int(cache.table[slot, (before - 1) // PAGE_TOKENS]), (before - 1) % PAGE_TOKENS + 1
            for kept in cache.kept(0):
                kept[page, :, used:] = math.nan
    return cache


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [tokens, heads, dim] rotated; cos and sin [tokens, 1, dim], sin with signs."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def exactly(
    row: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, scale: float, dtype: torch.dtype
) -> Tensor:
    """What one row's tokens attend to, in float64 [tokens, heads · dim]. Queries of several tokens have this dtype.

    row [tokens, heads + 2 kv_heads, dim]; keys and values [kv_heads, before, dim], without its own."""
    q, k, v = row[:, :HEADS], row[:, HEADS:-KV_HEADS], row[:, -KV_HEADS:]
    keys = torch.cat([keys, turned(k, cos, sin).transpose(0, 1)], dim=1).repeat_interleave(HEADS // KV_HEADS, dim=0)
    values = torch.cat([values, v.transpose(0, 1)], dim=1).repeat_interleave(HEADS // KV_HEADS, dim=0)
    queries = turned(q, cos, sin) * scale
    if len(row) > 1:
        queries = queries.to(dtype).double()
    scores = queries.transpose(0, 1) @ keys.transpose(1, 2)
    before = keys.shape[1] - len(row)
    scores.masked_fill_(torch.ones(scores.shape[1:], dtype=torch.bool).triu(before + 1), -math.inf)
    return (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)


SPANS = [
    ([0], [1]),
    ([5, 0, 47], [1, 1, 1]),
    ([0, 40, 3, 16], [20, 1, 7, 1]),
    ([300, 17, 0], [150, 1, 230]),
    ([0, 15], [64, 65]),
]
"""Of each row: tokens before, and tokens of the pass"""


@dtypes
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dim", [10, 64, 96, 128])
@pytest.mark.parametrize(("befores", "counts"), SPANS)
def test_each_token_attends_to_its_own_row_up_to_itself(
    steps: NativeLayer, befores: list[int], counts: list[int], dim: int, threads: int, dtype: torch.dtype
) -> None:
    if threads > 1 and dim != 64:
        return
    cache = filled(dtype, dim, befores)
    before = [cache.copy(slot, count)[0] if count else None for slot, count in enumerate(befores)]
    tokens, rows = sum(counts), len(counts)
    qkv = normal(1, tokens, (HEADS + 2 * KV_HEADS) * dim, dtype=dtype, seed=3)
    angles = torch.rand(1, tokens, 1, dim // 2, generator=torch.Generator().manual_seed(4)) * 6
    cos, sin = angles.cos().repeat(1, 1, 1, 2), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    scale = dim**-0.5
    cache.see_ragged(slice(0, rows), befores, counts)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = steps.attend(qkv, cos, sin, cache, 0, heads=HEADS, scale=scale)
    finally:
        torch.set_num_threads(usual)
    at = 0
    for slot, (begin, count) in enumerate(zip(befores, counts, strict=True)):
        of_row = slice(at, at + count)
        at += count
        row = qkv[0, of_row].view(count, -1, dim).double()
        turns = cos[0, of_row].double(), sin[0, of_row].double()
        nothing = torch.zeros(KV_HEADS, 0, dim, dtype=torch.double)
        keys, values = (x.double() for x in before[slot] or (nothing, nothing))
        near(out[0, of_row], exactly(row, *turns, keys, values, scale, dtype), dtype)
        new_keys, new_values = cache.copy(slot, begin + count)[0]
        near(new_keys[:, begin:].transpose(0, 1), turned(row[:, HEADS : HEADS + KV_HEADS], *turns), dtype)
        assert torch.equal(new_values[:, begin:].transpose(0, 1), row[:, HEADS + KV_HEADS :].to(dtype))
        assert torch.equal(new_keys[:, :begin].double(), keys)


@dtypes
def test_a_row_attends_to_the_same_numbers_alone_and_beside_others(steps: NativeLayer, dtype: torch.dtype) -> None:
    """Alone, heads are divided among the threads, and other queries stand together."""
    qkv = normal(1, 3 * 130, (HEADS + 2 * KV_HEADS) * 64, dtype=dtype, seed=3)
    angles = torch.rand(1, 3 * 130, 1, 32, generator=torch.Generator().manual_seed(4)) * 6
    cos, sin = angles.cos().repeat(1, 1, 1, 2), torch.cat([-angles.sin(), angles.sin()], dim=-1)

    def attended(rows: int, threads: int) -> Tensor:
        cache, tokens, usual = filled(dtype, 64, [0] * rows), rows * 130, torch.get_num_threads()
        cache.see_ragged(slice(0, rows), [0] * rows, [130] * rows)
        torch.set_num_threads(threads)
        try:
            return steps.attend(qkv[:, :tokens], cos[:, :tokens], sin[:, :tokens], cache, 0, heads=HEADS, scale=0.125)
        finally:
            torch.set_num_threads(usual)

    together = attended(3, 1)
    for threads in (1, 2, 5, 16):
        assert torch.equal(attended(1, threads)[0], together[0, :130])


@pytest.mark.parametrize("counts", [[1, 1], [9, 9]])
def test_a_row_that_went_wrong_is_alone_with_it(steps: NativeLayer, counts: list[int]) -> None:
    cache = filled(torch.float32, 64, [4, 4])
    cache.kept(0)[0][cache.table[0, 0], 0, 2] = math.nan
    tokens = sum(counts)
    qkv, cos = normal(1, tokens, (HEADS + 2 * KV_HEADS) * 64, dtype=torch.float32), torch.ones(1, tokens, 1, 64)
    cache.see_ragged(slice(0, 2), [4, 4], counts)
    out = steps.attend(qkv, cos, torch.zeros_like(cos), cache, 0, heads=HEADS, scale=0.1)
    assert out[0, : counts[0], : 64 * HEADS // KV_HEADS].isnan().all()
    assert out[0, counts[0] :].isfinite().all()


@pytest.mark.parametrize(("begin", "count"), [(-1, 1), (MOST, 1), (MOST - 3, 4)])
def test_tokens_outside_of_a_rows_pages_are_refused(begin: int, count: int) -> None:
    cache = filled(torch.float32, 64, [4])
    with pytest.raises(IndexError):
        cache.see_ragged(slice(0, 1), [begin], [count])


@pytest.mark.parametrize(
    ("tokens", "heads", "dtype"), [(3, 6, torch.float32), (2, 4, torch.float32), (2, 6, torch.bfloat16)]
)
def test_shapes_that_do_not_fit_are_refused(steps: NativeLayer, tokens: int, heads: int, dtype: torch.dtype) -> None:
    cache = filled(torch.float32, 64, [4, 4])
    cache.see_ragged(slice(0, 2), [4, 4], [1, 1])
    qkv, cos = normal(1, tokens, (HEADS + 2 * KV_HEADS) * 64, dtype=dtype), torch.ones(1, tokens, 1, 64)
    with pytest.raises(ValueError, match="do not fit"):
        steps.attend(qkv, cos, cos, cache, 0, heads=heads, scale=0.1)
