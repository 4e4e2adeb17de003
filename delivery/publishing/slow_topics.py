"""Topics that take nothing for a while, so that what goes to other topics need not wait for them. Pure.

A transaction ends well as a whole or not at all. A reply topic without a leader, or with fewer replicas than its
`min.insync.replicas`, would hold up everybody's results of the partition. What goes there is therefore tried alone, and
less and less often, once two transactions in a row have waited for it in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

T = TypeVar("T")
_STRIKES: Final = 2
_LONGEST_S: Final = 60.0
ALONE: Final = 8
"""Results that are sent to such a topic to try it."""


class SlowTopics:
    """Owned by one partition. Times are in seconds of one clock."""

    def __init__(self, first_s: float) -> None:
        """`first_s`: until the first trial; it doubles from trial to trial."""
        self._first_s = first_s
        self._failed: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def waited_for(self, topics: Iterable[str], now: float) -> list[str]:
        """A transaction has failed while these took nothing; returns those that it is news of."""
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
        """Of the results that are due, those to be sent now: a few to a slow topic whose trial it is, or all others."""
        if not self._until:
            return dict(due)
        for topic, until in self._until.items():
            if until <= now and (tried := [offset for offset, one in due.items() if topic in topics_of(one)]):
                return {offset: due[offset] for offset in tried[:ALONE]}
        return {offset: one for offset, one in due.items() if not self._until.keys() & set(topics_of(one))}
