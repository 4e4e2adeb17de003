"""Pages of keys and values: how their number grows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from guideway.workers.engine.kernels import large_pages
from guideway.workers.engine.model.kv_cache import PAGE_TOKENS, KvCache

HEADS, DIM = 3, 8


def filled(max_bytes: int) -> tuple[KvCache, Tensor]:
    """A cache of two layers, with a token of one row; the token's key in the second layer."""
    cache, at = KvCache(max_rows=4, max_bytes=max_bytes), torch.zeros(1, 1, dtype=torch.long)
    cache.reserve(0, 1)
    cache.see(slice(0, 1), at, 1)
    key = torch.arange(HEADS * DIM, dtype=torch.float32).view(1, HEADS, 1, DIM)
    for layer in range(2):
        cache.update(key, key + 1, layer)
    return cache, key


def first_key(cache: KvCache) -> Tensor:
    return cache.kept(1)[0][int(cache.table[0, 0]), :, 0].view(1, HEADS, 1, DIM)


@pytest.mark.parametrize("promised", [True, False])
def test_what_rows_hold_stays_when_the_cache_grows(monkeypatch: pytest.MonkeyPatch, promised: bool) -> None:
    if not promised:

        def refused(*_: object) -> Tensor:
            raise OSError(12, "the system promises no memory")

        monkeypatch.setattr(large_pages, "zeros_to_be", refused)
    cache, key = filled(2**24)
    places = []
    for slot in range(1, 4):
        cache.reserve(slot, PAGE_TOKENS * 4**slot)
        places.append(cache.kept(1)[0].data_ptr())
        assert first_key(cache).equal(key)
        assert not cache.kept(1)[0][cache.table[slot]].any()
    # Nobody waits for a copy of what is there.
    assert (len({*places}) == 1) == promised
    with pytest.raises(ValueError, match="pages of 16 tokens asked of a cache for"):
        cache.reserve(0, cache.max_tokens + 1)


def test_memory_is_taken_when_it_is_written() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    cache, _ = filled(2**32)
    cache.reserve(1, cache.max_tokens // 2)
    assert cache.nbytes >= 2**31
    assert resident() - before < 2**28
