"""Where a partition's new owner begins: what was committed, how the owners before have ended, what is still there."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.offsets.commit_metadata import decode
from guideway.delivery.offsets.crash_history import CrashHistory
from guideway.delivery.offsets.tracker import OffsetTracker
from guideway.delivery.partition_kafka import PartitionKafka
from guideway.delivery.settings import DeliverySettings


class Opening:
    """What one partition asks the brokers each time it is opened.

    The answers are the last word only once the partition's producer is initialised. Every method raises KafkaError, and
    TimeoutError after `open_timeout_s`.
    """

    def __init__(
        self, tp: TopicPartition, kafka: PartitionKafka, settings: DeliverySettings, token: int, log: Any
    ) -> None:
        """`token`: of the pipeline that opens it; `log`: structlog's, bound to the partition."""
        self._tp = tp
        self._kafka = kafka
        self._timeout_s = settings.open_timeout_s
        self._capacity = settings.capacity
        self._token = token
        self._log = log

    async def tracker(self, committed: OffsetAndMetadata | None, *, is_new: bool) -> OffsetTracker:
        """The offsets as this commit tells them; all that the partition holds where there is none.

        `is_new`: others may have owned the partition since this process last did. Raises UnreadableCommitMetadata.
        """
        if committed is None:
            async with asyncio.timeout(self._timeout_s):
                return OffsetTracker(await self._kafka.first_offset(self._tp))
        done, crashes = decode(committed.offset, committed.metadata)
        if is_new and (crashes.begun or crashes.dead):
            crashes = await self._taken_over(crashes, committed.offset, len(done))
        return OffsetTracker(committed.offset, done, crashes)

    async def in_range(self, tracker: OffsetTracker) -> OffsetTracker:
        """The tracker, if the partition has its position; else one from where the partition begins, said in the log.

        A lower position than before says that the topic was made anew: offsets mean other records now.
        """
        async with asyncio.timeout(self._timeout_s):
            first, end = await self._kafka.first_offset(self._tp), await self._kafka.end_offset(self._tp)
        if tracker.low < first:
            self._log.error(
                "records were deleted before they were answered; lengthen the topic's retention",
                deleted_up_to=first,
                unanswered_from=tracker.low,
            )
            return OffsetTracker(first)
        if tracker.low > end:
            self._log.error(
                "the partition ends before our position: the topic was made anew; it is read from its beginning",
                position=tracker.low,
                end=end,
            )
            return OffsetTracker(first)
        return tracker

    async def _taken_over(self, before: CrashHistory, low: int, finished_above: int) -> CrashHistory:
        """What to think of the owners before, by who of them still is a member of the group."""
        alive = {self._token}
        try:
            async with asyncio.timeout(self._timeout_s):
                alive |= await self._kafka.alive()
        except KafkaError as error:
            if error.retriable:
                raise
            self._log.warning("who lives is not told, so every owner that left its work counts", error=repr(error))
        crashes = before.taken_over(low, finished_above, self._capacity, alive)
        if before.begun:
            died = crashes.deaths > 0 and before.owner not in alive
            self._log.warning(
                "the owner before died in mid-work; what it had begun and not published is worked on again"
                if died
                else "the owner before lives and handed over late; what it had not published is worked on again",
                from_offset=low,
                finished_above=finished_above,
                at_most=self._capacity,
                deaths=crashes.deaths,
            )
        return crashes
