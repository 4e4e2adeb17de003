"""The topic of keys: followed by gateways, written by commands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer, started, unreachable
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.identity.keys import Keys
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import KEYS_TOPIC
from guideway.schemas.services.keys import Key
from guideway.schemas.wire import KEY, Undecodable

log = structlog.get_logger(__name__)


class KeyFollower:
    """`async with KeyFollower(cluster) as follower:` – `follower.keys` is complete on entry, then current."""

    def __init__(self, cluster: Cluster, *, look_again_s: float = 1.0) -> None:
        """look_again_s: seconds between two looks for a topic that is not there."""
        self.keys = Keys()
        self.is_there = False
        """Whether the cluster showed such a topic on entry."""
        reader = TopicReader(
            cluster,
            "gateway",
            KEYS_TOPIC,
            self._take,
            partitions=[0],
            made_anew=lambda _topic: self.keys.clear(),
            look_again_s=look_again_s,
        )
        self._topic = TopicFollower(reader)

    async def __aenter__(self) -> KeyFollower:
        """Raises Refusal(broker_unreachable)."""
        self._stack = AsyncExitStack()
        self.is_there = await self._stack.enter_async_context(self._topic.followed())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def current(self, timeout_s: float = 10) -> None:
        """Wait until all is read that the topic holds now. Raises: KafkaError; TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._topic.current()

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            key_id = (record.key or b"").decode("utf-8", "replace")
            try:
                self.keys.take(key_id, None if record.value is None else KEY.decode(record.value))
            except Undecodable as error:
                # Whatever it says, the key as it was before is not to count any longer.
                self.keys.take(key_id, None)
                log.error("no key of this version", offset=record.offset, reason=str(error))


async def read_keys(cluster: Cluster) -> Keys:
    """All keys at this moment.

    Raises Refusal: broker_unreachable; not_allowed; invalid_setting where the cluster shows no keys.
    """
    async with KeyFollower(cluster) as follower:
        if not follower.is_there:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the cluster at {cluster} shows no topic {KEYS_TOPIC}: no key was made yet (`guideway keys "
                "create` makes one), or this user may not read it: an administrator may",
            )
        return follower.keys


async def write_key(cluster: Cluster, key: Key) -> None:
    """Returns when all replicas in sync have it. Raises Refusal: broker_unreachable, not_allowed."""
    async with started(make_producer(cluster, "keys"), cluster) as producer:
        try:
            await producer.send_and_wait(KEYS_TOPIC, key=key.id.encode(), value=KEY.encode(key))
        except KafkaError as error:
            raise unreachable(cluster, error) from None
