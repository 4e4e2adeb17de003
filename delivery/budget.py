"""How many bytes of records a pipeline may hold, and which share of them one partition. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Budget:
    """Bytes of records that are taken in and not answered yet, over all partitions of one pipeline.

    A partition takes more in as long as it holds less than is still free. So one alone may hold half; of `n` that stand
    still each ends at one part in `n + 1`; and as much is always left for the others.
    """

    def __init__(self, limit: int, held: Callable[[], int]) -> None:
        """`held`: bytes that all partitions hold now."""
        self._limit = limit
        self._held = held

    def admits(self, own: int) -> bool:
        """Whether a partition that holds `own` bytes may take more in."""
        return own < self._limit - self._held()
