"""How many records of each topic a pipeline may take in next: parties share its slots. Pure.

A *party* is whoever shares with others, as a namespace; the pipeline's owner says which topics are whose.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Final, Protocol

UNBOUNDED: Final = sys.maxsize

Limit = Callable[[Hashable], int]
"""Party → how many of its records may be in hand: taken in, with results that are not published yet."""


class Intake(Protocol):
    """Says to which party a topic belongs, and how many records of a party may be in hand."""

    def party(self, topic: str) -> Hashable:
        """The party of this topic. A party may have any number of topics."""

    def limits(self, holding: Mapping[Hashable, int]) -> Limit:
        """The limits of one round of the pipeline. `holding`: how many records each party has in hand; it changes as
        records are taken in."""


class Room:
    """The room for records, in one round of a pipeline.

    A party that is alone may use half of the slots, each of two a third, and so on. So a party that comes finds room at
    once, even where those before it finish nothing.
    """

    def __init__(
        self, intake: Intake | None, capacity: int, running: Mapping[str, int], in_hand: Mapping[str, int]
    ) -> None:
        """`running`: records that hold a slot, by topic. `in_hand`: these and the ones still to be published, by topic.

        Without an `intake`, whoever comes first may use all slots.
        """
        self._intake = intake
        self._capacity = capacity
        self._running: Counter[Hashable] = Counter()
        self._in_hand: Counter[Hashable] = Counter()
        self._party: dict[str, Hashable] = {}
        self.left = capacity - sum(running.values())
        if intake is not None:
            for topic, count in in_hand.items():
                self._add(topic, running[topic], count)
            self._limit = intake.limits(self._in_hand)

    def of(self, topic: str) -> int:
        """How many records of this topic may be taken in now."""
        if self._intake is None:
            return max(0, self.left)
        party = self._party_of(topic)
        sharing = len(self._running) + (party not in self._running)
        slots = max(1, self._capacity // (sharing + 1)) - self._running.get(party, 0)
        return max(0, min(self.left, slots, self._limit(party) - self._in_hand.get(party, 0)))

    def is_full(self, topic: str) -> bool:
        """Whether its party has as much in hand as the intake lets it have."""
        return self._intake is not None and self._limit(self._party_of(topic)) <= self._in_hand[self._party_of(topic)]

    def take(self, topic: str, count: int) -> None:
        """So many records of this topic were taken in."""
        self.left -= count
        if self._intake is not None:
            self._add(topic, count, count)

    def _add(self, topic: str, running: int, in_hand: int) -> None:
        # Whoever holds no slot has no entry, for the entries are counted.
        if running:
            self._running[self._party_of(topic)] += running
        if in_hand:
            self._in_hand[self._party_of(topic)] += in_hand

    def _party_of(self, topic: str) -> Hashable:
        assert self._intake is not None
        if topic not in self._party:
            self._party[topic] = self._intake.party(topic)
        return self._party[topic]
