"""Tells operators what namespaces use of their limits, every few seconds while there is anything to tell."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import structlog

from guideway.delivery.clients.kafka_client import make_producer, stop_all
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.names.service_topics import USAGE_TOPIC
from guideway.schemas.services.usage import Usage, Used
from guideway.schemas.wire import USAGE

log = structlog.get_logger(__name__)

TELL_S: Final = 5.0
"""A namespace that is shown is some seconds old."""
_TIMEOUT_S: Final = 20.0
MOST: Final = 1_000
"""So many namespaces are told of, those with the most work waiting first."""


class UsageTeller:
    """`async with UsageTeller(...):` – nothing depends on what it tells. Without the topic it tells nothing."""

    def __init__(
        self,
        cluster: Cluster,
        topics: TopicDirectory,
        service: Literal["endpoints", "worker"],
        used: Callable[[], Mapping[str, Used]],
        *,
        tell_s: float = TELL_S,
    ) -> None:
        """used: namespace → what it uses in this process at this moment."""
        self._cluster, self._topics, self._used, self._tell_s = cluster, topics, used, tell_s
        self._service: Literal["endpoints", "worker"] = service
        self._process = uuid.uuid4().hex
        self._producer: Any = None

    async def __aenter__(self) -> UsageTeller:
        self._telling = asyncio.create_task(self._tell(), name="tell usage")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)
        await self._end_producer()

    async def _tell(self) -> None:
        told, fails = False, False
        while True:
            await asyncio.sleep(self._tell_s)
            found = _most(self._used())
            # Once more with nothing, so that what was told last is not believed any more.
            if not (found or told):
                continue
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    if await self._topics.partitions(USAGE_TOPIC):
                        await self._send(found)
                told, fails = bool(found), False
            except Exception as error:
                if not fails:
                    log.warning("what namespaces use cannot be told; it is tried again", error=repr(error))
                fails = True
                await self._end_producer()

    async def _send(self, found: Mapping[str, Used]) -> None:
        if self._producer is None:
            producer = make_producer(self._cluster, "usage")
            self._producer = producer
            await producer.start()
        usage = Usage(at_ms=time.time_ns() // 1_000_000, service=self._service, process=self._process, namespaces=found)
        await self._producer.send_and_wait(USAGE_TOPIC, USAGE.encode(usage), partition=0)

    async def _end_producer(self) -> None:
        producer, self._producer = self._producer, None
        await stop_all(producer, within_s=_TIMEOUT_S)


def _most(found: Mapping[str, Used]) -> Mapping[str, Used]:
    found = {namespace: used for namespace, used in found.items() if used != Used()}
    if len(found) <= MOST:
        return found
    return dict(sorted(found.items(), key=lambda one: (-one[1].waiting, one[0]))[:MOST])
