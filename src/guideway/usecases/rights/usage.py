"""What namespaces use of their limits at present, as services have told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started, unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.fetch_guards import know_topics
from guideway.delivery.telling.usage_teller import TELL_S
from guideway.schemas.names.service_topics import USAGE_TOPIC
from guideway.schemas.services.usage import Usage, Used, added
from guideway.schemas.wire import USAGE, Undecodable

_NOW_MS: Final = int(4 * TELL_S * 1000)
"""What was told longer ago is of a process that has ended."""
_READ_S: Final = 20.0


async def used_now(cluster: Cluster) -> Mapping[str, Used] | None:
    """Namespace → what it uses, over all services; None where that is not told, or not to this user.

    Raises Refusal(broker_unreachable).
    """
    at = TopicPartition(USAGE_TOPIC, 0)
    since_ms = time.time_ns() // 1_000_000 - _NOW_MS
    newest: dict[str, Usage] = {}
    async with started(make_consumer(cluster, "usage"), cluster) as consumer:
        try:
            if USAGE_TOPIC not in await consumer.topics():
                return None
            await know_topics(consumer, [USAGE_TOPIC])
            consumer.assign([at])
            first = (await consumer.offsets_for_times({at: since_ms}))[at]
            if first is None:
                return {}
            consumer.seek(at, first.offset)
            end = (await consumer.end_offsets([at]))[at]
            # A broker that is gone meanwhile looks like one that has nothing yet.
            async with asyncio.timeout(_READ_S):
                while await consumer.position(at) < end:
                    for record in (await consumer.getmany(at, timeout_ms=500)).get(at, ()):
                        try:
                            usage = USAGE.decode(record.value)
                        except Undecodable:
                            continue
                        newest[usage.process] = usage
        except TopicAuthorizationFailedError:
            return None
        except (KafkaError, TimeoutError) as error:
            raise unreachable(cluster, error, connected=True) from None
    return added({process: usage for process, usage in newest.items() if usage.at_ms >= since_ms})
