"""What each namespace has had in all, beside what the others have had. Pure; no tensors here."""

from __future__ import annotations

from collections import Counter
from typing import Final

from guideway.workers.engine.scheduling.row import Row

CREDIT_TOKENS: Final = 4096
"""A namespace may catch up with so many tokens that it has missed, at most; of weight 2 with twice as many."""
_MOST_KNOWN: Final = 4096
"""Namespaces that are remembered; beyond that, those that have missed as much as they may catch up with are not."""


class Credit:
    """Owner of the accounts. All amounts are tokens divided by the weight of their namespace.

    The level is what a namespace has had that always had its equal part. Whoever has had less has credit. Few rows,
    which fit into it as long as they may become, need not wait for equal seats (`seats.py`): what comes at once then
    runs at once, and a backlog does not. Whoever has as much as its part has no credit, however often it goes and
    comes, so over time nobody gets more.
    """

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        """By namespace, on the scale of the level."""
        self._level = 0.0
        self._wanted: Counter[str] = Counter()
        """The most tokens, not divided, that the rows of each namespace that are here may have."""

    def rise(self, level: float) -> None:
        """The level is now so high; it never falls."""
        self._level = max(self._level, level)

    def come(self, row: Row) -> None:
        """A row has come."""
        least = self._level - CREDIT_TOKENS
        if len(self._had) >= _MOST_KNOWN:
            self._had = {name: had for name, had in self._had.items() if had > least or self._wanted[name]}
        self._had[row.namespace] = max(self._had.get(row.namespace, 0.0), least)
        self._wanted[row.namespace] += _most(row)

    def end(self, row: Row) -> None:
        """A row that had come has ended."""
        self._wanted[row.namespace] -= _most(row)
        if not self._wanted[row.namespace]:
            del self._wanted[row.namespace]

    def charge(self, row: Row, tokens: int) -> None:
        """Count `tokens` that a row has taken in or generated."""
        self._had[row.namespace] += tokens / row.weight

    def covers(self, row: Row) -> bool:
        """Whether all rows of its namespace fit into the namespace's credit."""
        return self._wanted[row.namespace] <= (self._level - self._had.get(row.namespace, self._level)) * row.weight


def _most(row: Row) -> int:
    return row.prompt_tokens + row.generation.max_tokens
