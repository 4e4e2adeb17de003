"""Topics that are read whole and then followed: what they say is kept in memory by whoever reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.clients.positions import Ends
from guideway.delivery.clients.shared_question import SharedQuestion
from guideway.delivery.clients.topic_reader import TopicReader

log = structlog.get_logger(__name__)

_REST_S: Final = 1.0
"""After an error."""


class TopicFollower:
    """`async with TopicFollower(reader).followed():` – all is taken that the topics hold, and then what comes.

    Owner of the task that reads on, which outlives every error, and of the reader.
    """

    def __init__(self, reader: TopicReader) -> None:
        """reader: one that is not connected yet; it is this object's from now on."""
        self._reader = reader
        self._newest_ends = SharedQuestion(self._ends_of_all)

    @asynccontextmanager
    async def followed(
        self,
        find: Callable[[], Awaitable[bool]] | None = None,
        *,
        timeout_s: float | None = None,
        is_needed: bool = True,
    ) -> AsyncIterator[bool]:
        """`async with follower.followed() as is_there:` – connected. is_there: False: the cluster shows no such topic.

        find: in place of `find`. timeout_s: seconds for all that the topics hold. is_needed: False: what cannot be read
        now is taken later. Raises: Refusal(broker_unreachable | not_allowed); what `find` raises.
        """
        async with self._reader as reader:
            is_there = True
            try:
                async with asyncio.timeout(timeout_s):
                    if is_there := await (find or reader.find)():
                        await reader.catch_up()
            except (KafkaError, TimeoutError) as error:
                if is_needed:
                    raise unreachable(reader.cluster, error, connected=True) from None
                log.warning(
                    "a topic is not all read yet; the rest is taken as it comes", topic=reader.what, error=repr(error)
                )
            following = asyncio.create_task(self._follow(), name=f"follow {reader.what}")
            try:
                yield is_there
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    @property
    def topics(self) -> set[str]:
        """The topics that are read at present."""
        return self._reader.positions.topics

    async def find(self) -> bool:
        """Whether the cluster shows such a topic; each is followed from now on. Raises KafkaError."""
        return await self._reader.find()

    async def seen(self, offset: int, partition: int = 0, topic: str | None = None) -> None:
        """While it is followed: wait until the record at `offset` was taken, as long as that takes.

        topic: of a kind, which one. Raises KafkaError.
        """
        reader = self._reader
        tp = TopicPartition(topic or reader.topic or "", partition)
        while tp not in reader.positions and reader.topic is None:
            # It may have been made a moment ago, and not every broker knows it at once.
            await reader.find()
            await asyncio.sleep(0.05)
        await reader.until(lambda positions: positions.has_passed(tp, offset))

    async def current(self) -> None:
        """While it is followed: wait until all is taken that the topics hold now, as long as that takes.

        Of a kind, topics are included that were made since. Whoever asks while a question to the brokers is under way
        shares the next. Raises KafkaError.
        """
        while not await self._came_to_the_ends():
            pass

    async def _came_to_the_ends(self) -> bool:
        """False: a topic was made anew meanwhile, and may never come to where the old one ended."""
        positions = self._reader.positions
        anew = positions.anew
        ends = await self._newest_ends.answer()
        await self._reader.until(lambda positions: anew != positions.anew or positions.has_reached(ends))
        return anew == positions.anew

    async def _ends_of_all(self) -> Ends:
        """Where the topics end, of a kind also those that were made since."""
        reader = self._reader
        if reader.topic is not None:
            return await reader.ends()
        before = self.topics
        # Both at once: a question may have to wait behind a fetch that waits for records.
        finding = asyncio.create_task(reader.find())
        try:
            ends = await reader.ends()
            await finding
        finally:
            # It must not go on where the reader has ended.
            finding.cancel()
            await asyncio.gather(finding, return_exceptions=True)
        return await reader.ends() if self.topics - before else ends

    async def _follow(self) -> None:
        reader = self._reader
        while True:
            try:
                if reader.positions:
                    await reader.read(timeout_ms=1000)
                elif await reader.find():
                    log.info("a topic that was missing is there now", topics=sorted(self.topics)[:10])
                else:
                    # Whoever waits for a record may find its topic sooner.
                    reader.found.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(reader.look_again_s):
                            await reader.found.wait()
            except Exception as error:
                # Whatever it is, it must not end this task unseen: what was long ago would be believed for ever.
                say = log.warning if isinstance(error, KafkaError) else log.error
                say("a topic cannot be followed; it is tried again", topic=reader.what, error=repr(error))
                await asyncio.sleep(_REST_S)
                reader.go_back()
