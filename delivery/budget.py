"""Bounds the bytes of records that a pipeline holds, and the share of one partition. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Budget:
    """Bytes of records that are taken in and not answered yet, over all partitions of one pipeline.

    A partition takes more in as long as it holds less than is still free. One that stands still alone ends at half of
    the limit, each of `n` at `limit / (n + 1)`. So the same amount is always left for the others.
    """

    def __init__(self, limit: int, held: Callable[[], int]) -> None:
        """`limit`: bytes; `held`: returns the bytes that all partitions hold now."""
        self._limit = limit
        self._held = held

    def admits(self, own: int) -> bool:
        """Whether a partition that holds `own` bytes may take more in."""
        return own < self._limit - self._held()
