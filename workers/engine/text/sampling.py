"""Choosing the next token of every row.

What a row draws hangs on its logits, its seed and its place in the text, and on nothing that happened before: neither
on the rows beside it nor on how many steps it took to come there. On a CPU with a compiler, `kernels/choice.c` computes
what stands here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from guideway.schemas.generation import Generation
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.native_choice import NativeChoice

_BLOCK: Final = 256
_COLDEST: Final = 1e-20
"""A temperature below this counts as 0: divided by it, logits that differ at all differ by more than chance can make up
for, or do not fit into float32."""
_TILE, _LANES = 64, 16
"""Tokens that have their noise from the same blocks of the generator, and how many blocks these are."""
_HALF: Final = 0xFFFFFFFF
_ROUNDS: Final = 10
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sampler:
    """How one row draws. Its source of chance is its own, so that it does not depend on the other rows of the batch."""

    temperature: float
    top_p: float
    seed: int
    """Of 64 bits."""

    @property
    def draws(self) -> bool:
        """Whether it leaves something to chance."""
        return self.temperature >= _COLDEST

    @property
    def inverse(self) -> float:
        """1 / temperature, 0 where the likeliest token is taken."""
        return 1 / self.temperature if self.draws else 0.0

    @classmethod
    def of(cls, generation: Generation, *, request_id: str, sample: int) -> Sampler:
        """The sampler of a sample, by `seed + sample`; without a seed, a hash of the request's id takes its place."""
        seed = generation.seed
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
        return cls(generation.temperature, generation.top_p, (seed + sample) % 2**64)


class BatchedSampler:
    """The samplers of the rows that one step sees."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._samplers = samplers
        self._some_draw = any(sampler.draws for sampler in samplers)
        self._draws: _Draws | None = None
        """Of the rows that leave something to chance; made when the first logits say where and over how many tokens"""
        kernels = native.kernels()
        self._native = kernels and NativeChoice(
            kernels,
            inverse=[sampler.inverse for sampler in samplers],
            top_p=[sampler.top_p for sampler in samplers],
            seeds=[sampler.seed for sampler in samplers],
        )

    def choose(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """The next token of each row: the likeliest at temperature 0, else one drawn (see `_Draws.draw`).

        logits float32 [rows, vocabulary]; places: how many tokens each row's text has so far. Result int64 [rows], -1
        where a row has no finite maximum: its numbers went wrong, or no token is allowed. A device is not waited for.
        """
        if self._native is not None and logits.device.type == "cpu":
            return self._native.choose(logits, places)
        best, tokens = likeliest(logits)
        if self._some_draw:
            if self._draws is None:
                self._draws = _Draws(self._samplers, logits.shape[1], logits.device)
            tokens.index_copy_(0, self._draws.rows, self._draws.draw(logits, best, places))
        return tokens.masked_fill(~best.isfinite(), -1)


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


class _Draws:
    """Those of some rows that draw, and what is the same for them in every step; owner of these numbers on the device.

    A row's token is drawn by the Gumbel trick: argmax over t of logits[t] / temperature + noise[t]. That is a draw from
    the softmax (https://arxiv.org/abs/1411.0030). The noise belongs to the token and not to its rank. So logits that
    differ in the last bits of float32, as they do from one batch to another, draw the same token almost always. Logits
    of a model in bfloat16 differ by hundredths, and now and then draw another one. Only the likeliest tokens are drawn,
    the fewest whose sum reaches top_p (nucleus sampling, https://arxiv.org/abs/1904.09751).
    """

    def __init__(self, samplers: Sequence[Sampler], vocabulary: int, device: torch.device) -> None:
        drawing = [(row, sampler) for row, sampler in enumerate(samplers) if sampler.draws]
        # Those with a nucleus come first: they are a view then.
        drawing.sort(key=lambda one: one[1].top_p >= 1)
        self._at = np.array([row for row, _ in drawing], dtype=np.int64)
        self.rows = torch.from_numpy(self._at).to(device)
        self._inverse = torch.tensor([[sampler.inverse] for _, sampler in drawing], device=device)
        top_p = [[sampler.top_p] for _, sampler in drawing if sampler.top_p < 1]
        self._top_p = torch.tensor(top_p, dtype=torch.float64, device=device)
        self._noise = Noise([sampler.seed for _, sampler in drawing], vocabulary, device)

    def draw(self, logits: Tensor, best: Tensor, places: Sequence[int]) -> Tensor:
        """One token for each of `rows`, of no meaning where a row has no finite maximum.

        logits [all rows, vocabulary], best the largest of each; places: as for `choose`.
        """
        # The largest of each row becomes 0, so that no quotient overflows.
        scaled = logits.index_select(0, self.rows).sub_(best.index_select(0, self.rows)[:, None]).mul_(self._inverse)
        if len(self._top_p):
            _leave_nucleus_(scaled[: len(self._top_p)], self._top_p)
        # In float64, so that the kernel in C, which sums in float32 what cannot win, finds the same token.
        return self._noise.at(np.array(places)[self._at]).add_(scaled).argmax(dim=-1)


class Noise:
    """Noise of the Gumbel distribution, -ln(-ln(1 - w)), float64 [rows, vocabulary], by seed, place and token alone.

    w = (word + 1/2) / 2³², where the word of token t is word ⌊t / 16⌋ mod 4 of block 16 ⌊t / 64⌋ + (t mod 16): so 64
    neighbouring tokens share 16 neighbouring blocks.
    """

    def __init__(self, seeds: Sequence[int], vocabulary: int, device: torch.device) -> None:
        """seeds: of 64 bits."""
        self._vocabulary = vocabulary
        blocks = torch.arange(-(-vocabulary // _TILE) * _LANES, device=device)
        self._counter = torch.stack([blocks, torch.zeros_like(blocks)])[:, None]
        self._by = torch.tensor([[[0xD2511F53]], [[0xCD9E8D57]]], device=device)
        self._keys = torch.from_numpy(_keys(seeds)).to(device)
        self._half = torch.full((1,), -(2.0**-33), dtype=torch.float64, device=device)

    def at(self, places: Sequence[int] | Numbers) -> Tensor:
        """The noise where each row's text has so many tokens."""
        words = torch.stack([word.view(len(places), -1, _LANES) for word in self.words(places)], dim=2)
        minus_w = torch.add(self._half, words.view(len(places), -1)[:, : self._vocabulary], alpha=-(2.0**-32))
        return minus_w.log1p_().neg_().log_().neg_()

    def words(self, places: Sequence[int] | Numbers) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Philox4x32-10 (https://doi.org/10.1145/2063384.2063405) of the counters (block, place, 0, 0) by the seeds:
        four words, each int64 [rows, blocks].

        Of the words a, b, c and d, a round multiplies a and c, and of their products it needs the halves. So a product
        of 64 bits is read as two numbers of 32. A new word is written into the lower half of 64 bits and has no sign.
        """
        device, rows = self._by.device, len(places)
        at = np.zeros((2, rows, 1), dtype=np.uint32)
        at[1, :, 0] = np.asarray(places, dtype=np.int64) & _HALF
        others = torch.from_numpy(at.view(np.int32)).to(device)
        old, new = self._counter, torch.zeros(2, rows, self._counter.shape[-1], dtype=torch.int64, device=device)
        a, c = new.view(torch.int32)[..., ::2]
        for low, high in self._keys:
            products = old * self._by
            halves = products.view(torch.int32)
            mixed = halves[..., 1::2] ^ others
            torch.bitwise_xor(mixed[1], low, out=a)
            torch.bitwise_xor(mixed[0], high, out=c)
            old, others = new, halves[..., ::2]
        d, b = products & _HALF
        return new[0], b, new[1], d


def _keys(seeds: Sequence[int]) -> Numbers:
    """The keys of each round, int32 [rounds, low and high half, rows, 1]."""
    halves = np.array([[seed & _HALF for seed in seeds], [seed >> 32 for seed in seeds]], dtype=np.uint64)
    steps = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)
    rounds = np.arange(_ROUNDS, dtype=np.uint64)[:, None, None]
    return (halves + rounds * steps).astype(np.uint32).view(np.int32)[..., None]


def _leave_nucleus_(scaled: Tensor, top_p: Tensor) -> None:
    """scaled [rows, vocabulary], 0 at most, = -inf where a token is not of the nucleus; top_p float64 [rows, 1].

    The share of a token is e^scaled in whole parts of 2^-k of the largest. Their sums are exact in float64 in whatever
    order they are made, so that the kernel in C draws the same line, also where a sum just reaches top_p. k is such
    that the largest sum fits: 36 for 49,152 tokens.
    """
    ordered, token_ids = scaled.sort(dim=-1, descending=True, stable=True)
    sums = ordered.double().exp_().mul_(2.0 ** (52 - scaled.shape[1].bit_length())).round_().cumsum(dim=-1)
    # The likeliest token stays, whatever top_p is.
    ordered[:, 1:].masked_fill_(sums[:, :-1] >= sums[:, -1:] * top_p, -torch.inf)
    scaled.scatter_(1, token_ids, ordered)
