"""Which topics the cluster has. It is asked before a result is sent: a missing topic would hold up a transaction."""

from __future__ import annotations

import asyncio
import time

from aiokafka.client import AIOKafkaClient

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import connection_guards


class TopicDirectory:
    """Topics and their partition counts, as the cluster last said. Owned by one pipeline."""

    def __init__(self, cluster: Cluster, client_id: str) -> None:
        connection_guards.install()
        self._client = AIOKafkaClient(**cluster.client_settings(), client_id=client_id)
        self._partitions: dict[str, int] = {}
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        await self._client.bootstrap()

    async def stop(self) -> None:
        await self._client.close()

    @property
    def topics(self) -> list[str]:
        """The names of all topics that the cluster had when it was last asked."""
        return list(self._partitions)

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0: there is no such topic. Raises KafkaError."""
        async with self._lock:
            # What exists is believed for half a minute, what does not only for a second: it may be on its way.
            age_s = time.monotonic() - self._asked_at
            if age_s > (30 if topic in self._partitions else 1):
                cluster = await self._client.fetch_all_metadata()
                self._partitions = {name: len(cluster.partitions_for_topic(name) or ()) for name in cluster.topics()}
                self._asked_at = time.monotonic()
        return self._partitions.get(topic, 0)
