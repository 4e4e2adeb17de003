"""Choosing the next token of every row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from guideway.schemas.generation import Generation

_BLOCK: Final = 256
_COLDEST: Final = 1e-20
"""A temperature below this counts as 0: divided by it, logits that differ at all differ by more than chance can make up
for, or do not fit into float32."""


@dataclass(frozen=True, eq=False)
class Sampler:
    """How one row draws. Its source of chance is its own, so that it does not depend on the other rows of the batch."""

    temperature: float
    top_p: float
    random: torch.Generator

    @classmethod
    def of(cls, generation: Generation, *, request_id: str, sample: int) -> Sampler:
        """The sampler of a sample, by `seed + sample`; without a seed, a hash of the request's id takes its place."""
        seed = generation.seed
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
        # Seeds of the generator are 64 bits wide.
        chance = torch.Generator().manual_seed((seed + sample) % 2**63)
        return cls(generation.temperature, generation.top_p, chance)

    def noise(self, vocabulary: int) -> Tensor:
        """The row's next noise of the Gumbel distribution, float32 [vocabulary]."""
        uniform = torch.rand(vocabulary, generator=self.random).clamp_min_(torch.finfo(torch.float32).tiny)
        return uniform.log_().neg_().log_().neg_()


class BatchedSampler:
    """The samplers of the rows that one step sees."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._drawing = [(row, sampler) for row, sampler in enumerate(samplers) if sampler.temperature >= _COLDEST]

    def choose(self, logits: Tensor) -> list[int | None]:
        """The next token of each row: the likeliest at temperature 0, else one drawn (see `draw`).

        logits float32 [rows, vocabulary]. None where a row has no finite maximum: its numbers went wrong, or no token
        is allowed. The device is waited for once, however many rows there are.
        """
        best, tokens = likeliest(logits)
        if self._drawing:
            rows, samplers = zip(*self._drawing, strict=True)
            tokens[list(rows)] = draw(logits[list(rows)] - best[list(rows), None], samplers)
        return [token if token >= 0 else None for token in tokens.masked_fill(~best.isfinite(), -1).tolist()]


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's largest logit and the first token that has it; logits [rows, vocabulary], results [rows].

    The maxima of blocks are computed first, and only one block of each row is searched for the token: on a CPU a search
    costs 15 times as much as a maximum.
    """
    rows, vocabulary = logits.shape
    if vocabulary % _BLOCK:
        return logits.max(dim=-1)
    blocks = logits.view(rows, -1, _BLOCK)
    block = blocks.amax(dim=-1).argmax(dim=-1, keepdim=True)
    best, within = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].max(dim=-1)
    return best, block[:, 0] * _BLOCK + within


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """One token a row, by the Gumbel trick: argmax over t of logits[i, t] / temperature[i] + noise[i, t].

    That is a draw from the softmax (https://arxiv.org/abs/1411.0030). The noise belongs to the token and not to its
    rank. So logits that differ in the last bits of float32, as they do from one batch to another, draw the same token
    almost always. Logits of a model in bfloat16 differ by hundredths, and now and then draw another one. Only the
    likeliest tokens are drawn, the fewest whose sum reaches top_p[i] (nucleus sampling,
    https://arxiv.org/abs/1904.09751).

    logits [rows, vocabulary], the largest of each row 0, so that no quotient overflows; result [rows], of no meaning
    where a row has no finite maximum.
    """
    scaled = logits / torch.tensor([[s.temperature] for s in samplers], device=logits.device)
    if any(s.top_p < 1 for s in samplers):
        scaled = _nucleus(
            scaled, torch.tensor([[s.top_p] for s in samplers], dtype=torch.float64, device=logits.device)
        )
    noise = torch.stack([s.noise(logits.shape[1]) for s in samplers]).to(logits.device)
    return (scaled + noise).argmax(dim=-1)


def _nucleus(scaled: Tensor, top_p: Tensor) -> Tensor:
    """`scaled` [rows, vocabulary] with -inf where a token is not of the nucleus; top_p float64 [rows, 1], 1 keeps all.

    In float64, because in float32 the smallest top_p would be 0 and keep no token.
    """
    p, token_ids = torch.softmax(scaled, dim=-1, dtype=torch.float64).sort(dim=-1, descending=True, stable=True)
    beyond = (p.cumsum(dim=-1) - p >= top_p) & (top_p < 1)
    return scaled.masked_fill(torch.empty_like(beyond).scatter_(1, token_ids, beyond), -torch.inf)
