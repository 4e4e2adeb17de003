"""Choosing the next token of every row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guideway.schemas.generation import Generation


@dataclass(frozen=True, eq=False)
class Sampler:
    """How one row draws, with its own source of chance: what it draws does not depend on who else is in the batch."""

    temperature: float
    top_p: float
    random: random.Random

    @classmethod
    def of(cls, generation: Generation, *, request_id: str, sample: int) -> Sampler:
        """Sample i draws from `seed + i`; without a seed, from a hash of the request's id in its place."""
        seed = generation.seed
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
        return cls(generation.temperature, generation.top_p, random.Random(seed + sample))


class BatchedSampler:
    """The samplers of the rows that one step sees."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._drawing = [(row, sampler) for row, sampler in enumerate(samplers) if sampler.temperature > 0]

    def choose(self, logits: Tensor) -> list[int | None]:
        """The next token of each row: the likeliest at temperature 0, else one drawn (see `draw`).

        logits float32 [rows, vocabulary]. None where a row has no finite maximum: its numbers went wrong, or nothing
        is allowed in it.
        """
        best, tokens = logits.max(dim=-1)
        chosen: list[int | None] = [
            token if finite else None for token, finite in zip(tokens.tolist(), best.isfinite().tolist(), strict=True)
        ]
        drawing = [(row, sampler) for row, sampler in self._drawing if chosen[row] is not None]
        if drawing:
            rows, samplers = zip(*drawing, strict=True)
            for row, token in zip(rows, draw(logits[list(rows)], samplers), strict=True):
                chosen[row] = token
        return chosen


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """One token a row, by inverting the distribution function at a uniform number of the row's own.

    p[i] = softmax(logits[i] / temperature[i]), then only the fewest likeliest tokens whose sum reaches top_p[i]
    (nucleus sampling, https://arxiv.org/abs/1904.09751). logits [rows, vocabulary].
    """

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    p = torch.softmax(logits / column([s.temperature for s in samplers]), dim=-1)
    p, token_ids = p.sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(dim=-1) - p
    p = p.masked_fill_(before >= column([s.top_p for s in samplers]), 0.0)
    reached = p.cumsum(dim=-1)
    # Below the whole sum, so that the search ends at a token of the nucleus.
    target = column([s.random.random() for s in samplers]) * reached[:, -1:]
    index = torch.searchsorted(reached, target, right=True)
    chosen: list[int] = token_ids.gather(1, index).squeeze(1).tolist()
    return chosen
