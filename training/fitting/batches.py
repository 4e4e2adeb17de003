"""Which rows form a step, and which of them run together. Pure.

The rows of step n follow from the seed alone, so that a resumed training needs no record of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

_POOL_STEPS: Final = 16
"""The rows of so many steps are sorted by length together. More steps would save little padding and make the order less
random."""


def pieces(lengths: Sequence[int], most: int, *, by_length: bool = True) -> Iterator[list[int]]:
    """Places of rows that run together: at most `most` positions with padding, or one row.

    by_length: put rows of similar length together; else neighbours.
    """
    places = range(len(lengths))
    piece: list[int] = []
    longest = 0
    for place in sorted(places, key=lengths.__getitem__) if by_length else places:
        longest = max(longest, lengths[place])
        if piece and (len(piece) + 1) * longest > most:
            yield piece
            piece, longest = [], lengths[place]
        piece.append(place)
    if piece:
        yield piece


class Batches:
    """The row numbers of each step. Every epoch uses each row once, in a new seeded order."""

    def __init__(self, lengths: Sequence[int], *, rows_per_step: int, seed: int, by_length: bool) -> None:
        """lengths: tokens of each row."""
        self._lengths = lengths
        self._size = min(rows_per_step, len(lengths))
        self._seed = seed
        self._by_length = by_length
        self._epoch = lru_cache(maxsize=1)(self._make_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that use each row once."""
        return -(-len(self._lengths) // self._size)

    def rows(self, step: int) -> list[int]:
        """The numbers of a step's rows. step: from 0 on."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        shuffler = random.Random(f"{self._seed} {epoch}")
        order = list(range(len(self._lengths)))
        shuffler.shuffle(order)
        if self._by_length:
            pool = _POOL_STEPS * self._size
            pools = [order[at : at + pool] for at in range(0, len(order), pool)]
            order = [row for rows in pools for row in sorted(rows, key=lambda row: self._lengths[row])]
        steps = [order[at : at + self._size] for at in range(0, len(order), self._size)]
        if self._by_length:
            shuffler.shuffle(steps)
        return steps
