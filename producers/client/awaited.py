"""Who waits for which reply: by correlation id, and by request id if the caller gave one. Pure: takes `now`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from guideway.delivery.recent_keys import RecentKeys

W = TypeVar("W")
Work = tuple[str, str]
"""The endpoint's address and the request id: what a caller may publish more than once."""


class Awaited(Generic[W]):
    """Submissions that wait for replies. One reader of replies owns it. Each submission is answered once.

    A submission with a request id takes the first reply for that id, whichever repetition of the request it answers.
    The replies to the other repetitions come later. They are recognised by their correlation ids, so that they do not
    answer a submission that is made after them.
    """

    def __init__(self, *, limit: int = 100_000, ttl_s: float = 3600.0) -> None:
        """limit: how many answered submissions are remembered. ttl_s: for how many seconds."""
        self._waiting: dict[bytes, tuple[W, Work | None]] = {}
        self._of_work: dict[Work, set[bytes]] = {}
        self._answered: RecentKeys[bytes] = RecentKeys(limit=limit, ttl_s=ttl_s)

    @property
    def waiting(self) -> Collection[W]:
        """All who wait."""
        return [who for who, _ in self._waiting.values()]

    def expect(self, who: W, correlation: bytes, work: Work | None) -> None:
        """Let `who` wait for the reply with this correlation id, or for any reply to this work."""
        self._waiting[correlation] = (who, work)
        if work is not None:
            self._of_work.setdefault(work, set()).add(correlation)

    def drop(self, correlation: bytes) -> None:
        """End the wait under this correlation id. Its reply may still answer a repetition."""
        _, work = self._waiting.pop(correlation, (None, None))
        if work is not None:
            self._of_work[work].discard(correlation)
            if not self._of_work[work]:
                del self._of_work[work]

    def take(self, correlation: bytes, work: Work, now: float) -> list[W]:
        """Those whom this reply answers; their wait ends. Empty for a repeat or a stranger's reply. now: in seconds."""
        if self._answered.holds(correlation, now):
            return []
        answered = set(self._of_work.get(work, ()))
        for one in answered:
            self._answered.add(one, now)
        if correlation in self._waiting:
            answered.add(correlation)
        who = [self._waiting[one][0] for one in sorted(answered)]
        for one in answered:
            self.drop(one)
        return who
