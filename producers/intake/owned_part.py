"""Which part of a namespace's event partitions this process has: it may use as much of the namespace's limits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from guideway.schemas.names.topics import is_event_topic, sender_of_topic

Owned = Mapping[str, tuple[int, int]]
"""Topic → how many of its partitions this process has, and how many there are."""


class Member(Protocol):
    """Of a consumer group, as a `Pipeline` is."""

    @property
    def assignments(self) -> int:
        """How often partitions were assigned."""

    def owned(self) -> Owned:
        """The partitions of all topics of the subscription."""


class OwnedPart:
    """Owner of the parts, which are counted again when the partitions were assigned again."""

    def __init__(self, member: Callable[[], Member]) -> None:
        self._member = member
        self._counted = -1
        self._parts: Mapping[str, float] = {}

    def __call__(self, namespace: str) -> float:
        """From 0 to 1; 1 for a namespace of which nothing is known."""
        member = self._member()
        if self._counted != member.assignments:
            self._parts, self._counted = parts(member.owned()), member.assignments
        return self._parts.get(namespace, 1.0)


def parts(owned: Owned) -> dict[str, float]:
    """The part of each namespace that has partitions."""
    here: Counter[str] = Counter()
    all_: Counter[str] = Counter()
    for topic, (mine, count) in owned.items():
        if is_event_topic(topic):
            here[sender := sender_of_topic(topic)] += mine
            all_[sender] += count
    return {namespace: here[namespace] / count for namespace, count in all_.items() if count}
