"""Dead letters, and what was replayed of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started, unreachable
from guideway.delivery.clients.span_reader import ANSWER_TIMEOUT_S, SpanReader
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata
from guideway.delivery.replay.decision import Replayed
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import replay_group

_ROLE = "dead-letters"


class DeadLetterReader:
    """`letters` reads the topics; `replayed` asks what was put back. Raises Refusal(broker_unreachable)."""

    def __init__(self, cluster: Cluster, letters: SpanReader, groups: AsyncExitStack) -> None:
        """groups: ends the consumers that ask what was replayed."""
        self.letters = letters
        self._cluster = cluster
        self._groups = groups
        self._asking: dict[str, Any] = {}
        """Group → a consumer that knows its coordinator."""

    @staticmethod
    @asynccontextmanager
    async def connected(cluster: Cluster) -> AsyncIterator[DeadLetterReader]:
        """A reader, connected on entry."""
        async with SpanReader.connected(cluster, _ROLE) as letters, AsyncExitStack() as groups:
            yield DeadLetterReader(cluster, letters, groups)

    async def replayed(self, tp: TopicPartition) -> Replayed:
        """What was replayed of the partition. Who is to rely on it has initialised the partition's producer before."""
        return (await self.all_replayed([tp]))[tp]

    async def all_replayed(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, Replayed]:
        """As `replayed`, of many: each group is asked once."""
        found = dict.fromkeys(tps, Replayed())
        for group in sorted({replay_group(tp.topic) for tp in tps}):
            asking = await self._of_group(group)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    of_group = [tp for tp in tps if replay_group(tp.topic) == group]
                    committed = await group_guards.all_committed(asking, of_group)
            except (KafkaError, TimeoutError) as error:
                raise unreachable(self._cluster, error, connected=True) from None
            found |= {tp: _of_commit(tp, one) for tp, one in committed.items()}
        return found

    async def _of_group(self, group: str) -> Any:
        if group not in self._asking:
            consumer = make_consumer(self._cluster, _ROLE, group_id=group, auto_offset_reset="earliest")
            self._asking[group] = await self._groups.enter_async_context(started(consumer, self._cluster))
        return self._asking[group]


def _of_commit(tp: TopicPartition, committed: OffsetAndMetadata) -> Replayed:
    try:
        return Replayed.of_commit(committed.offset, committed.metadata)
    except UnreadableCommitMetadata as error:
        raise Refusal(
            FailureCode.INTERNAL_ERROR,
            f"what was replayed of {tp.topic}, partition {tp.partition}, cannot be read ({error}): "
            "use the version of guideway that has replayed it",
        ) from None
