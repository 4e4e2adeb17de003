"""Masks by the kernel are those by operations of torch; what it chooses is in `text/test_sampling.py`."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from guideway.workers.engine.kernels.native_choice import NativeChoice, mask_


@pytest.mark.parametrize("vocabulary", [1, 31, 100, 4096, 49_152])
def test_what_is_masked_is_forbidden_and_nothing_else_changes(kernels: ctypes.CDLL, vocabulary: int) -> None:
    chance = np.random.default_rng(vocabulary)
    logits = torch.randn(6, vocabulary)
    bits = chance.random((3, vocabulary)) < [[0.5], [0.001], [0.999]]
    words = np.zeros((3, (vocabulary + 31) // 32 * 32), dtype=np.uint8)
    words[:, :vocabulary] = bits
    expected = logits.clone()
    expected[[4, 0, 5]] = expected[[4, 0, 5]].masked_fill(torch.from_numpy(~bits), -torch.inf)
    mask_(kernels, logits, [4, 0, 5], np.packbits(words, axis=1, bitorder="little").view(np.int32))
    assert torch.equal(logits, expected)


def test_what_does_not_fit_together_is_refused(kernels: ctypes.CDLL) -> None:
    logits, bits = torch.zeros(2, 64), np.zeros((1, 2), dtype=np.int32)
    wrong = [(logits, [2]), (logits, [-1]), (logits, [0, 1]), (logits.double(), [0]), (torch.zeros(2, 65), [0])]
    for some, rows in wrong:
        with pytest.raises(ValueError, match="do not fit"):
            mask_(kernels, some, rows, bits)
    choice = NativeChoice(kernels, inverse=[0.0], top_p=[1.0], seeds=[1])
    with pytest.raises(ValueError, match="1 rows choose"):
        choice.choose(logits, [0, 0])
