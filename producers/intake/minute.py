"""How much of something was used in the last minute. Pure: takes `now`."""

from __future__ import annotations

from collections import deque
from typing import Final

MINUTE_S: Final = 60.0
_SLOT_S: Final = 0.25
"""Amounts of so long are counted as one, so that a minute is a few hundred numbers."""


class Minute:
    """A limit of an amount in any minute: a log of what was used, and no bucket that fills.

    A bucket that holds a minute's amount lets twice as much through in a minute, once after a rest. A smaller bucket
    never lets the whole limit through. Amounts may be used all at once, and come back a minute after they were used.
    """

    def __init__(self) -> None:
        self._used: deque[tuple[float, float, int]] = deque()
        """(first use, last use, amount); the oldest comes first."""
        self._sum = 0

    def use(self, amount: int, now: float) -> None:
        """Count an amount, whether or not there is room for it. `now` never goes back; seconds."""
        if self._used and now - self._used[-1][0] < _SLOT_S:
            first, _, before = self._used.pop()
            self._used.append((first, now, before + amount))
        else:
            self._used.append((now, now, amount))
        self._sum += amount

    def used(self, now: float) -> int:
        """How much was used in the last minute."""
        while self._used and now - self._used[0][1] >= MINUTE_S:
            self._sum -= self._used.popleft()[2]
        return self._sum

    def wait_s(self, amount: int, limit: int, now: float) -> float:
        """Seconds until there is room for an amount, if nothing else is used; 0 if there is room now.

        An amount of more than the limit needs the whole minute for itself.
        """
        excess = self.used(now) + min(amount, limit) - limit
        for _, last, gone in self._used:
            if excess <= 0:
                break
            excess -= gone
            wait_s = last + MINUTE_S - now
            if excess <= 0:
                return wait_s
        return 0.0
