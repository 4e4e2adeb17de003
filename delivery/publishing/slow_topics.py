"""Finds topics that take nothing for a while, so that results for other topics do not wait for them. Pure.

A transaction ends well as a whole or not at all. A reply topic without a leader, or with fewer replicas than its
`min.insync.replicas`, would hold up all results of the partition. Once two transactions in a row have waited for a
topic in vain, its results are tried alone, and less and less often.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

T = TypeVar("T")
_STRIKES: Final = 2
_LONGEST_S: Final = 60.0
ALONE: Final = 8
"""How many results are sent to a slow topic to try it."""


class SlowTopics:
    """Owned by one partition. Times are in seconds of one clock."""

    def __init__(self, first_s: float) -> None:
        """`first_s`: until the first trial; it doubles from trial to trial."""
        self._first_s = first_s
        self._failed: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def waited_for(self, topics: Iterable[str], now: float) -> list[str]:
        """A transaction has failed while these topics took nothing. Returns those of them that are slow now."""
        news = []
        for topic in topics:
            times = self._failed[topic] = self._failed.get(topic, 0) + 1
            if times >= _STRIKES:
                self._until[topic] = now + min(_LONGEST_S, self._first_s * 2 ** min(times - _STRIKES, 10))
                news.append(topic)
        return news

    def took(self, topics: Iterable[str]) -> None:
        """A transaction with records to these topics has ended well."""
        for topic in topics:
            self._failed.pop(topic, None)
            self._until.pop(topic, None)

    def chosen(self, due: Mapping[int, T], topics_of: Callable[[T], Collection[str]], now: float) -> dict[int, T]:
        """The results to send now, of those that are due (by offset).

        Where a slow topic is to be tried, a few of its results; else all results that go to no slow topic.
        """
        if not self._until:
            return dict(due)
        for topic, until in self._until.items():
            if until <= now and (tried := [offset for offset, one in due.items() if topic in topics_of(one)]):
                return {offset: due[offset] for offset in tried[:ALONE]}
        return {offset: one for offset, one in due.items() if not self._until.keys() & set(topics_of(one))}
