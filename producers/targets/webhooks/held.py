"""Which webhooks are held: their receivers have answered 410, and nothing goes there until the manifest changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import structlog

from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.names.service_topics import HELD_WEBHOOKS_TOPIC
from guideway.schemas.record import Outgoing
from guideway.schemas.services.leaving import Held
from guideway.schemas.wire import HELD_WEBHOOK, Undecodable

log = structlog.get_logger(__name__)


class HeldWebhooks:
    """`async with HeldWebhooks(cluster) as held:` – what all processes of the service have noted, and this one."""

    def __init__(self, cluster: Cluster, timeout_s: float = 20) -> None:
        reader = TopicReader(cluster, "webhooks", HELD_WEBHOOKS_TOPIC, self._take, partitions=[0])
        self._topic = TopicFollower(reader)
        self._timeout_s = timeout_s
        self._versions: dict[str, int] = {}

    async def __aenter__(self) -> HeldWebhooks:
        """Raises Refusal(broker_unreachable)."""
        self._stack = AsyncExitStack()
        # What is not known yet costs one attempt more.
        await self._stack.enter_async_context(self._topic.followed(timeout_s=self._timeout_s, is_needed=False))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def holds(self, namespace: str, name: str, version: int) -> bool:
        """Whether this version of the webhook is held."""
        return self._versions.get(f"{namespace}/{name}", 0) >= version

    def hold(self, namespace: str, name: str, version: int) -> Outgoing:
        """Hold it from now on; returns the note for the others."""
        key = f"{namespace}/{name}"
        self._versions[key] = max(version, self._versions.get(key, 0))
        held = Held(version=version, since_ms=int(time.time() * 1000))
        return Outgoing(topic=HELD_WEBHOOKS_TOPIC, key=key.encode(), value=HELD_WEBHOOK.encode(held), partition=0)

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            key = (record.key or b"").decode("utf-8", "replace")
            try:
                self._versions[key] = HELD_WEBHOOK.decode(record.value).version
            except Undecodable:
                self._versions.pop(key, None)
