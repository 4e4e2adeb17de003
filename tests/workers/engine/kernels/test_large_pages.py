"""Memory in large pages: whose it is, and what it holds."""

from __future__ import annotations

import gc

import pytest
import torch

from guideway.workers.engine.kernels import large_pages


@pytest.mark.parametrize("features", [5, 300_000], ids=["small", "several pages"])
def test_copies_lie_side_by_side_in_memory_of_their_own(features: int) -> None:
    tensors = [torch.randn(4, features), torch.randn(features).bfloat16(), torch.zeros(0, 3), torch.randn(features, 2)]
    copies = large_pages.side_by_side(tensors)
    for copy, tensor in zip(copies, tensors, strict=True):
        assert copy.dtype == tensor.dtype
        assert torch.equal(copy, tensor)
        assert copy.is_contiguous()
    [storage] = {copy.untyped_storage().data_ptr() for copy in copies}
    assert storage not in {tensor.untyped_storage().data_ptr() for tensor in tensors}
    copies[0].fill_(7)
    assert torch.equal(copies[1], tensors[1])


def test_their_memory_ends_with_the_last_of_them() -> None:
    one, other = large_pages.side_by_side([torch.ones(2**20), torch.ones(3)])
    del one
    gc.collect()
    assert torch.equal(other, torch.ones(3))
    resident = _resident()
    del other
    gc.collect()
    assert _resident() < resident - 2**21


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
