"""Asks what workers have answered, as long as any request that was published is unanswered."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

import structlog
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import stop_all
from guideway.delivery.clients.progress import GroupProgress
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.producers.intake.shares import Shares
from guideway.schemas.names.groups import workers_group
from guideway.schemas.names.topics import size_of_request_topic

log = structlog.get_logger(__name__)

ASK_S: Final = 0.2
"""The time between two questions while anything is unanswered."""
RARELY_S: Final = 1.0
"""The same after `QUIET_S` in which nothing was answered."""
QUIET_S: Final = 10.0
TIMEOUT_S: Final = 5.0
COUNT_S: Final = 5.0
"""How old the number of a size's workers may be."""


class LaneWatch:
    """`async with LaneWatch(...):` tells `shares` what is answered, by one task for each model size."""

    def __init__(self, cluster: Cluster, shares: Shares, pipeline: Pipeline) -> None:
        """`pipeline` publishes the requests, and looks again when something was answered."""
        self._cluster = cluster
        self._shares = shares
        self._pipeline = pipeline
        self._watching: dict[str, asyncio.Task[None]] = {}
        """By model size; a task ends when nothing of its size is unanswered."""

    async def __aenter__(self) -> LaneWatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watching = list(self._watching.values())
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    def look(self, size: str) -> None:
        """Something was published for this size."""
        if size not in self._watching:
            self._watching[size] = asyncio.create_task(self._watch(size), name=f"watch the lanes of {size}")

    async def _watch(self, size: str) -> None:
        """Until nothing has been unanswered for a while."""
        clock = asyncio.get_running_loop().time
        group = GroupProgress(self._cluster, workers_group(size))
        moved_at, counted_at, known = clock(), float("-inf"), True
        try:
            while (lanes := self._lanes(size)) or clock() - moved_at < QUIET_S:
                if lanes:
                    try:
                        async with asyncio.timeout(TIMEOUT_S):
                            if clock() - counted_at >= COUNT_S:
                                self._shares.workers(lanes, await group.members())
                                counted_at = clock()
                            moved_at = clock() if await self._ask(group, lanes) else moved_at
                        known = True
                    except Exception as error:
                        # Whatever it is, it must not end this task: nobody would ever be let in again.
                        self._shares.unknown(lanes, clock())
                        if known:
                            log.warning("it is not known what workers have answered", size=size, error=repr(error))
                        known = False
                    self._pipeline.look_again()
                await asyncio.sleep(ASK_S if clock() - moved_at < QUIET_S else RARELY_S)
        finally:
            # First of all: what is published from here on needs another task.
            self._watching.pop(size, None)
            await stop_all(group, within_s=TIMEOUT_S)

    def _lanes(self, size: str) -> list[str]:
        return [lane for lane in self._shares.lanes if size_of_request_topic(lane) == size]

    async def _ask(self, group: GroupProgress, lanes: list[str]) -> bool:
        """Whether anything was answered."""
        before = self._shares.unanswered(lanes)
        partitions = []
        for lane in lanes:
            count = await self._pipeline.topics.partitions(lane)
            partitions += [TopicPartition(lane, number) for number in range(count)]
            if not count:
                self._shares.forget(lane)
        self._shares.answered(await group.of(partitions), asyncio.get_running_loop().time())
        return self._shares.unanswered(lanes) < before
