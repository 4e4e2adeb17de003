"""Remembers keys for a while, bounded in number and in time. Pure.

A transaction does not notice that the same request was sent twice. Who remembers the ids of late can.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class RecentKeys(Generic[K]):
    """At most `limit` keys, each for `ttl_s` seconds from when it was added; beyond that the oldest goes first.

    Every method takes the time in seconds; which clock is the caller's choice, as long as it is one.
    """

    def __init__(self, *, limit: int = 100_000, ttl_s: float = 3600.0) -> None:
        if limit < 1 or ttl_s <= 0:
            raise ValueError("limit is at least 1 and ttl_s above 0")
        self._limit = limit
        self._ttl_s = ttl_s
        self._added_at: dict[K, float] = {}
        """In the order in which they were added."""
        self.pushed_out = 0
        """Keys that had to go before their time, for others to have room."""

    def __len__(self) -> int:
        return len(self._added_at)

    def add(self, key: K, now: float) -> bool:
        """Remember a key; False if it is remembered already, which does not prolong its time."""
        if self.holds(key, now):
            return False
        self._added_at.pop(key, None)
        self._added_at[key] = now
        self._shrink(now)
        return True

    def renew(self, key: K, now: float) -> None:
        """Remember a key from `now` on, whether or not it is remembered already."""
        self._added_at.pop(key, None)
        self.add(key, now)

    def holds(self, key: K, now: float) -> bool:
        """Whether the key is remembered."""
        added_at = self._added_at.get(key)
        return added_at is not None and now - added_at < self._ttl_s

    def push_out(self) -> None:
        """Forget the oldest key before its time."""
        del self._added_at[next(iter(self._added_at))]
        self.pushed_out += 1

    def expire(self, now: float) -> None:
        """Forget the keys whose time is over."""
        self._shrink(now)

    def _shrink(self, now: float) -> None:
        while self._added_at:
            oldest, added_at = next(iter(self._added_at.items()))
            over_time = now - added_at >= self._ttl_s
            if not over_time and len(self._added_at) <= self._limit:
                return
            del self._added_at[oldest]
            self.pushed_out += not over_time


class SharedRecentKeys(Generic[K]):
    """Recent keys of several parties, with one limit for all together.

    Where there are too many keys, the party that has the most loses its oldest. So a party that adds keys without end
    pushes out its own, and never those of a party that has less than an even share.
    """

    def __init__(self, *, limit: int = 100_000, ttl_s: float = 3600.0) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._windows: dict[str, RecentKeys[K]] = {}
        self._count = 0
        self.pushed_out = 0
        """Keys that had to go before their time, for others to have room."""

    def __len__(self) -> int:
        return self._count

    def renew(self, party: str, key: K, now: float) -> None:
        """Remember a key of this party from `now` on, whether or not it is remembered already."""
        window = self._windows.setdefault(party, RecentKeys(limit=self._limit + 1, ttl_s=self._ttl_s))
        before = len(window)
        window.renew(key, now)
        self._count += len(window) - before
        if self._count > self._limit:
            self._make_room(window, now)

    def holds(self, party: str, key: K, now: float) -> bool:
        """Whether this key of the party is remembered."""
        window = self._windows.get(party)
        return window is not None and window.holds(key, now)

    def _make_room(self, added: RecentKeys[K], now: float) -> None:
        # Whoever has more than an even share need not be compared with all others: a flood is dealt with at once.
        largest = added
        if len(added) * len(self._windows) <= self._limit:
            for window in self._windows.values():
                window.expire(now)
            self._windows = {party: window for party, window in self._windows.items() if len(window)}
            self._count = sum(map(len, self._windows.values()))
            largest = max(self._windows.values(), key=len)
        if self._count > self._limit:
            largest.push_out()
            self._count -= 1
            self.pushed_out += 1
