"""How far each partition of some topics is read, and whether a topic was made anew meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping

from aiokafka.structs import TopicPartition

Ends = Mapping[TopicPartition, int]
"""Partition → the offset after its last committed record."""


class Positions:
    """The partitions that are read, each with the offset of its next record; 0 before the first is known.

    Owned by one reader; all others only ask. No broker tells that a topic was deleted and made anew. It shows where an
    offset comes that is lower than one before, or where a topic ends before its position.
    """

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}
        self.anew = 0
        """How often a topic was made anew."""

    def __iter__(self) -> Iterator[TopicPartition]:
        return iter(self._next)

    def __len__(self) -> int:
        return len(self._next)

    def __contains__(self, tp: object) -> bool:
        return tp in self._next

    def items(self) -> ItemsView[TopicPartition, int]:
        """(partition, offset of the next record)"""
        return self._next.items()

    @property
    def topics(self) -> set[str]:
        """Those of the partitions that are read."""
        return {tp.topic for tp in self._next}

    def of(self, topic: str) -> list[TopicPartition]:
        """The partitions of this topic that are read."""
        return [tp for tp in self._next if tp.topic == topic]

    def has_passed(self, tp: TopicPartition, offset: int) -> bool:
        """Whether the record at `offset` was taken."""
        return self._next.get(tp, 0) > offset

    def has_reached(self, ends: Ends) -> bool:
        """Whether all before these ends was taken, or left out by compaction and transaction markers."""
        return all(self._next.get(tp, end) >= end for tp, end in ends.items())

    def goes_back(self, tp: TopicPartition, offset: int) -> bool:
        """Whether the topic was made anew, if this offset comes next: of a record, or of where the client stands."""
        return offset < self._next.get(tp, 0)

    def beyond(self, ends: Ends) -> set[str]:
        """The topics that end before their position: they were made anew."""
        return {tp.topic for tp, end in ends.items() if self._next.get(tp, 0) > end}

    def add(self, partitions: Iterable[TopicPartition]) -> None:
        """These are read from their beginning."""
        self._next |= dict.fromkeys(partitions, 0)

    def move(self, tp: TopicPartition, offset: int) -> None:
        """All before this offset was taken. One that is not read any more is passed over."""
        if tp in self._next:
            self._next[tp] = offset

    def begin_anew(self, topic: str) -> None:
        """The topic was made anew: it is read from its beginning."""
        self.anew += 1
        self.add(self.of(topic))

    def forget(self, topics: Collection[str]) -> None:
        """These topics are not read any more."""
        self._next = {tp: offset for tp, offset in self._next.items() if tp.topic not in topics}
