"""Seats that are kept free for a moment. Pure; no tensors here.

Where rows gave up seats for a row and that row ends, its seat stays free for its namespace for some steps.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from guideway.workers.engine.scheduling.row import Row

_KEPT_STEPS: Final = 32
"""How long a seat is kept. Whoever asks one question after the other then need not have a row preempted for each."""


class KeptSeats:
    """Owner of the rows that others gave up seats for, and of the seats that are kept when such rows have ended."""

    def __init__(self) -> None:
        self._given: set[Row] = set()
        """The rows that run and have such a seat."""
        self._kept: deque[tuple[int, str]] = deque()
        """Free seats: kept until which step, and for which namespace. The one that is kept longest comes last."""

    @property
    def namespaces(self) -> list[str]:
        """The namespaces for which a seat is kept, once for each seat."""
        return [namespace for _, namespace in self._kept]

    def of_others(self, namespace: str) -> int:
        """How many seats are kept for other namespaces."""
        return sum(other != namespace for _, other in self._kept)

    def counts(self) -> Counter[str]:
        """How many seats are kept for each namespace."""
        return Counter(namespace for _, namespace in self._kept)

    def release(self, step: int, *, all_of_them: bool) -> None:
        """Let everybody have the seats that have been kept long enough at `step`, or all."""
        while self._kept and (self._kept[0][0] <= step or all_of_them):
            self._kept.popleft()

    def take(self, row: Row, *, given: bool) -> None:
        """Seat `row`, on a seat that is kept for its namespace if there is one. given: whether others went for it."""
        kept = next((place for place in self._kept if place[1] == row.namespace), None)
        if kept is not None:
            self._kept.remove(kept)
        if given or kept is not None:
            self._given.add(row)

    def lose(self, row: Row) -> None:
        """Note that `row` was preempted: its seat is not kept."""
        self._given.discard(row)

    def end(self, row: Row, step: int, *, others_wait: bool) -> None:
        """Note that `row` ended at `step`: if others had gone for it, its seat is kept.

        others_wait: whether rows of its namespace wait; they have their turn as everybody's, and no seat is kept.
        """
        if row in self._given:
            self._given.remove(row)
            if not others_wait:
                self._kept.append((step + _KEPT_STEPS, row.namespace))
