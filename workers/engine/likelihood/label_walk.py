"""The probability of each label: which places of the tree of labels a row has to see, and what follows from them. Pure.

Labels stand in a trie of tokens (`text/label_form.py`). At a place where they part, a row is told the probability of
each way on: of the logits of the tokens that may come there, with the biases of labels added, the softmax. The
probability of a label is the product of these on its way, so those of all labels sum to 1. Where only one token can
come, its probability is 1, and the place need not be seen.

A row sees the place after its prompt in any case. Where all labels begin with different tokens, that is all. Every
further place takes a token for each step from the place seen before. The row takes back what it has written since the
two ways parted, and writes the tokens of the other one: the keys and values of what both have in common are there.
Depth goes first, so that little is taken back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from guideway.workers.messages.from_engine import Generated

Tokens = tuple[int, ...]


class Move(NamedTuple):
    """What a row does next: it keeps so many of the tokens it has written, and writes another one."""

    kept: int
    token: int


class LabelWalk:
    """One row's way through the tree of its labels; owner of what is known of their probabilities."""

    def __init__(self, ids: Mapping[str, Sequence[int]]) -> None:
        """ids: the tokens of each label; at least one label."""
        self.ids: Mapping[str, Tokens] = {label: tuple(own) for label, own in ids.items()}
        self._known: dict[str, float] = {}
        """Label → the logarithm of its probability."""
        self._unseen: dict[Tokens, float] = {}
        """What is written up to a place that was not seen yet → the logarithm of the probability to come there."""
        self.drawn: Generated | None = None
        """The text, where it was drawn: the walk goes on after it. Else the most probable label is the text."""
        self._find([*self.ids], 0.0)

    def awaits(self, token_ids: Sequence[int]) -> bool:
        """Whether what comes after these tokens is to be told."""
        return tuple(token_ids) in self._unseen

    def tell(self, token_ids: Sequence[int], ways: Iterable[tuple[Collection[str], float]]) -> None:
        """Tell what comes after these tokens, a place that is awaited: the labels of each way, and the logarithm of the
        odds of the way, to any base of comparison.
        """
        ways = list(ways)
        so_far = self._unseen.pop(tuple(token_ids)) - log_sum([odds for _, odds in ways])
        for labels, odds in ways:
            self._find(labels, so_far + odds)

    def next(self, token_ids: Sequence[int]) -> Move | None:
        """How a row that has written these tokens comes nearer to a place that is awaited; None if there is none."""
        if not self._unseen:
            return None
        wanted = next(reversed(self._unseen))
        kept = min(len(_common([wanted, tuple(token_ids)])), len(wanted) - 1)
        return Move(kept, wanted[kept])

    @property
    def probabilities(self) -> dict[str, float]:
        """Label → probability, the most probable first, of equals the one declared first; all are known."""
        order = sorted(self.ids, key=lambda label: -self._known[label])
        odds = {label: math.exp(self._known[label]) for label in order}
        total = math.fsum(odds.values())
        return {label: one / total for label, one in odds.items()}

    def _find(self, labels: Collection[str], log_probability: float) -> None:
        """Note where these labels part, or how probable the only one is."""
        if len(labels) == 1:
            (only,) = labels
            self._known[only] = log_probability
        else:
            self._unseen[_common([self.ids[label] for label in labels])] = log_probability


def _common(some: Sequence[Tokens]) -> Tokens:
    """The tokens with which all of them begin."""
    # What the first and the last in order have in common, all between them have as well.
    first, last = min(some), max(some)
    return next((first[:at] for at, token in enumerate(first) if token != last[at]), first)


def log_sum(logs: Sequence[float]) -> float:
    """log Σ exp of the values."""
    largest = max(logs)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(one - largest) for one in logs))
