"""Dead letters, and what was replayed of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

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
        asking = await self._of_group(replay_group(tp.topic))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                committed = await group_guards.committed(asking, tp)
            return Replayed.of_commit(committed.offset, committed.metadata) if committed is not None else Replayed()
        except UnreadableCommitMetadata as error:
            raise Refusal(
                FailureCode.INTERNAL_ERROR,
                f"what was replayed of {tp.topic}, partition {tp.partition}, cannot be read ({error}): "
                "use the version of guideway that has replayed it",
            ) from None
        except (KafkaError, TimeoutError) as error:
            raise unreachable(self._cluster, error, connected=True) from None

    async def _of_group(self, group: str) -> Any:
        if group not in self._asking:
            consumer = make_consumer(self._cluster, _ROLE, group_id=group, auto_offset_reset="earliest")
            self._asking[group] = await self._groups.enter_async_context(started(consumer, self._cluster))
        return self._asking[group]
