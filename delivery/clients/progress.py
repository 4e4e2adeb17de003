"""How far a group of ours has come, for a reader that is not in the group: by its commits and their metadata."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import fetch_guards, group_guards
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata, decode


class Progress(msgspec.Struct, frozen=True):
    """The progress in one partition, which ends before `end`: offsets below `low` are finished, and those in `done`."""

    low: int
    done: Collection[int]
    end: int

    @property
    def lag(self) -> int:
        """Offsets that are not finished, those of transaction markers among them."""
        return max(0, self.end - self.low - len(self.done))


class GroupProgress:
    """A consumer that asks about a group and never joins it. Every question raises KafkaError."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster = cluster
        self._group = group
        self._started: Any = None

    async def stop(self) -> None:
        if self._started is not None:
            await self._started.stop()

    async def _consumer(self) -> Any:
        if self._started is None:
            consumer = make_consumer(self._cluster, "progress", group_id=self._group)
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            self._started = consumer
        return self._started

    async def of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Progress]:
        """The progress in these partitions, by one request for all commits and one to each broker for the ends."""
        consumer = await self._consumer()
        await fetch_guards.know_topics(consumer, {tp.topic for tp in partitions})
        commits = await group_guards.all_committed(consumer, partitions)
        ends = await consumer.end_offsets(partitions)
        return {tp: _progress(commits.get(tp), ends[tp]) for tp in partitions}

    async def members(self) -> int:
        """How many processes are in the group."""
        return len(await group_guards.members(await self._consumer()))


def _progress(commit: OffsetAndMetadata | None, end: int) -> Progress:
    if commit is None:
        # Nobody has worked here yet, or so long ago that it is forgotten: what lies here may have been answered.
        return Progress(0, (), 0)
    try:
        return Progress(commit.offset, decode(commit.offset, commit.metadata)[0], end)
    except UnreadableCommitMetadata:
        # Of a newer program. What is above `low` counts as unfinished until it is below.
        return Progress(commit.offset, (), end)
