"""Counts the records that a group has still to answer, by reading them: transaction markers take up offsets as well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_consumer, started, unreachable
from guideway.delivery.clients.span_reader import OffsetRange, SpanReader
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata, decode
from guideway.schemas.failures import FailureCode, Refusal

ENOUGH: Final = 1000
"""Where there are more, counting ends here."""


async def unanswered(cluster: Cluster, group: str, topics: Mapping[str, int], timeout_s: float = 20) -> int:
    """How many records of these topics (name → partitions) are not answered, at most `ENOUGH`. The group reads on.

    Raises Refusal(broker_unreachable | internal_error).
    """
    consumer = make_consumer(cluster, "waiting", group_id=group, auto_offset_reset="earliest")
    count = 0
    async with started(consumer, cluster):
        reader = SpanReader(cluster, consumer)
        for tp, span in (await reader.spans(topics)).items():
            try:
                async with asyncio.timeout(timeout_s):
                    committed = await group_guards.committed(consumer, tp)
                low = span.first if committed is None else committed.offset
                done = decode(low, committed.metadata)[0] if committed is not None else frozenset()
            except UnreadableCommitMetadata as error:
                raise Refusal(FailureCode.INTERNAL_ERROR, f"{error}: use the guideway that wrote it") from None
            except (KafkaError, TimeoutError) as error:
                raise unreachable(cluster, error, connected=True) from None
            rest = OffsetRange(min(max(low, span.first), span.end), span.end)
            async for record in reader.read({tp: rest}):
                count += record.offset not in done
                if count >= ENOUGH:
                    return count
    return count
