"""Keys seen of late, bounded in number and in time: for what a transaction cannot know, such as a repeat. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Window(Generic[K]):
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

    def _shrink(self, now: float) -> None:
        while self._added_at:
            oldest, added_at = next(iter(self._added_at.items()))
            over_time = now - added_at >= self._ttl_s
            if not over_time and len(self._added_at) <= self._limit:
                return
            del self._added_at[oldest]
            self.pushed_out += not over_time
