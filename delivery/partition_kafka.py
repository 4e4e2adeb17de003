"""What a partition needs of the client library: `clients.PartitionClient` gives it, and a simulation in the tests."""

from __future__ import annotations

from typing import Any, Protocol

from aiokafka.structs import OffsetAndMetadata, TopicPartition


class PartitionKafka(Protocol):
    """Every method may raise KafkaError and may hang."""

    def producer(self, transactional_id: str) -> Any:
        """A producer with aiokafka's methods for transactions, not started; starting it fences all earlier ones."""

    async def renew(self, producer: Any) -> None:
        """Give a producer that has just ended a transaction a new epoch, if its epoch is still the last."""

    async def discard(self, producer: Any) -> None:
        """Let go of a producer, whatever state it is in; never raises."""

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        """What the group committed last, with its metadata; None: nothing ever."""

    async def alive(self) -> frozenset[int]:
        """The tokens of all members that the group has now, as far as the brokers tell."""

    async def first_offset(self, tp: TopicPartition) -> int:
        """Of what the partition still holds."""

    async def end_offset(self, tp: TopicPartition) -> int:
        """One past the last record."""

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read on from here. Raises IllegalStateError if the partition is not ours any more."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0: there is none of that name."""
