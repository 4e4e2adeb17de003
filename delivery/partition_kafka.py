"""What a partition asks of Kafka. `PartitionClient` implements it, and the tests' simulation."""

from __future__ import annotations

from typing import Any, Protocol

from aiokafka.structs import OffsetAndMetadata, TopicPartition


class PartitionKafka(Protocol):
    """Every method may raise KafkaError, and may hang: whoever calls it sets a timeout."""

    def producer(self, transactional_id: str) -> Any:
        """A producer with aiokafka's methods for transactions, not started; starting it fences all earlier ones."""

    def in_small_batches(self, producer: Any) -> None:
        """Have a producer that is not started send fewer records together: so many were refused for one of them."""

    async def renew(self, producer: Any) -> None:
        """Give a producer that has just ended a transaction a new epoch, if its epoch is still the last."""

    async def discard(self, producer: Any) -> None:
        """Let go of a producer, whatever state it is in; never raises."""

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        """What the group committed last, with its metadata; None: nothing ever."""

    async def alive(self) -> frozenset[int]:
        """The tokens (`token_of_client_id`) of all members that the group has now."""

    async def first_offset(self, tp: TopicPartition) -> int:
        """The lowest offset that the partition still holds."""

    async def end_offset(self, tp: TopicPartition) -> int:
        """One past the last record."""

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read on from here. Raises IllegalStateError if the partition is not ours any more."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0: there is none of that name."""
