"""A topic that is read whole, outside any group, and then followed: what it says is kept in memory by whoever reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.guards.fetch_guards import know_topics

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 20.0
"""How long nothing may come of a topic that holds more."""
_ANSWER_S: Final = 5.0
"""For a question about a topic's end that can be asked again."""
_POSITION_S: Final = 0.5
_REST_S: Final = 1.0
"""After an error."""

Ends = Mapping[TopicPartition, int]
"""Partition → the offset after its last committed record."""


class TopicFollower:
    """`async with TopicFollower(...) as follower:` – a connected consumer; then `find`, `catch_up`, `follow`.

    Owner of the consumer and of the positions in the topic. A partition that is added later is read from its beginning.
    A topic that is deleted and made anew is read from its beginning as well.
    """

    def __init__(
        self,
        bootstrap: str,
        role: str,
        topic: str,
        take: Callable[[Sequence[ConsumerRecord[Any, Any]]], None],
        *,
        partitions: Sequence[int] | None = None,
        made_anew: Callable[[], None] = lambda: None,
        look_s: float = 10.0,
        look_again_s: float = 60.0,
    ) -> None:
        """role: in the client id. take: is given the committed records of a partition, in order, perhaps repeatedly.

        partitions: None for all. made_anew: what was taken is of a topic that is no more, and the new one follows.
        look_s: seconds between two looks whether the topic was made anew or has more partitions.
        look_again_s: seconds between two looks for a topic that `follow` does not find.
        """
        self._bootstrap, self._role, self._topic = bootstrap, role, topic
        self._take = take
        self._numbers = partitions
        self._made_anew = made_anew
        self._look_s, self._look_again_s = look_s, look_again_s
        self._consumer: Any
        self._positions: dict[TopicPartition, int] = {}
        """Of each partition that is read, the offset of the next record; 0 before the first is known."""
        self._looked_at = 0.0
        self._following: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        self._asking = asyncio.Lock()
        self._asked = self._answered = 0
        """Questions for the topic's end begun so far, and the last that was answered."""
        self._ends: Ends = {}
        """What it found."""

    async def __aenter__(self) -> TopicFollower:
        """Raises Refusal(broker_unreachable)."""
        settings: dict[str, Any] = {"auto_offset_reset": "earliest"}
        if self._numbers is None:
            settings["metadata_max_age_ms"] = int(self._look_s * 1000)
        self._stack = AsyncExitStack()
        consumer = make_consumer(self._bootstrap, self._role, **settings)
        self._consumer = await self._stack.enter_async_context(started(consumer, self._bootstrap))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._stack.aclose()

    # Reading ---------------------------------------------------------------------------------------------------------

    async def find(self) -> bool:
        """Whether the cluster has the topic; if so, it is read from its beginning from now on. Raises KafkaError."""
        if self._topic not in await self._consumer.topics():
            return False
        numbers = self._numbers
        if numbers is None:
            await know_topics(self._consumer, [self._topic])
            numbers = sorted(self._consumer.partitions_for_topic(self._topic) or ())
        await self._assign(numbers)
        return bool(self._positions)

    async def ends(self) -> Ends:
        """Where the topic ends at this moment. Raises KafkaError."""
        found: Ends = await self._consumer.end_offsets(list(self._positions))
        return found

    def has_read(self, ends: Ends) -> bool:
        """Whether all before these ends was taken, or left out by compaction and transaction markers."""
        return all(self._positions.get(tp, 0) >= end for tp, end in ends.items())

    async def read(self, timeout_ms: int) -> bool:
        """Take what comes within `timeout_ms`; returns whether anything has. Raises KafkaError."""
        await self._look()
        before = dict(self._positions)
        for tp, records in (await self._consumer.getmany(*self._positions, timeout_ms=timeout_ms)).items():
            if records[0].offset < self._positions[tp]:
                # Kafka tells the client that its position is none, and the client goes on with the first record.
                await self._begin_anew()
                return True
            self._take(records)
        for tp in self._positions:
            # A partition without a leader may have none yet; it must not hold up the others.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POSITION_S):
                    # The position moves past what compaction and transaction markers left out, too.
                    self._positions[tp] = await self._consumer.position(tp)
        async with self._moved:
            self._moved.notify_all()
        return self._positions != before

    async def catch_up(self) -> None:
        """Take all that the topic holds at this moment. Raises: KafkaError; TimeoutError as `catching_up`."""
        async for _ in self.catching_up():
            pass

    async def catching_up(self, patience_s: float = PATIENCE_S) -> AsyncGenerator[None, None]:
        """Take all that the topic holds at this moment, bit by bit, for whoever looks at each bit before the next.

        Raises: KafkaError; TimeoutError if nothing comes for `patience_s` seconds though there is more.
        """
        ends, now = await self.ends(), asyncio.get_running_loop().time
        moved_at = now()
        while not self.has_read(ends):
            if await self.read(timeout_ms=200):
                moved_at = now()
            elif now() - moved_at > patience_s:
                raise TimeoutError
            yield

    # Following -------------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """From now on take what comes, in a task that outlives every error."""
        self._following = asyncio.create_task(self._follow(), name=f"follow {self._topic}")

    async def seen(self, offset: int, partition: int = 0) -> None:
        """While it is followed: wait until the record at `offset` was taken, as long as that takes."""
        tp = TopicPartition(self._topic, partition)
        async with self._moved:
            await self._moved.wait_for(lambda: self._positions.get(tp, 0) > offset)

    async def current(self) -> None:
        """While it is followed: wait until all is taken that the topic holds now, as long as that takes.

        Whoever asks while a question to the brokers is under way shares the next. Raises KafkaError.
        """
        before = self._asked
        async with self._asking:
            # A question that was asked before may have missed what we ask for.
            if self._answered <= before:
                self._asked = number = self._asked + 1
                self._ends = await self.ends()
                self._answered = number
            ends = self._ends
        async with self._moved:
            await self._moved.wait_for(lambda: self.has_read(ends))

    async def _follow(self) -> None:
        while True:
            try:
                if self._positions:
                    await self.read(timeout_ms=1000)
                elif await self.find():
                    log.info("a topic that was missing is there now", topic=self._topic)
                else:
                    await asyncio.sleep(self._look_again_s)
            except Exception as error:
                # Whatever it is, it must not end this task unseen: what was long ago would be believed for ever.
                say = log.warning if isinstance(error, KafkaError) else log.error
                say("a topic cannot be followed; it is tried again", topic=self._topic, error=repr(error))
                await asyncio.sleep(_REST_S)
                for tp, position in self._positions.items():
                    self._consumer.seek(tp, position)

    # Changes of the topic --------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Every `look_s`: whether the topic was made anew, or has more partitions."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < self._look_s:
            return
        self._looked_at = now
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_ANSWER_S):
                ends = await self.ends()
                # noida-db tells nothing of a position beyond the end.
                if any(position > ends[tp] for tp, position in self._positions.items()):
                    await self._begin_anew()
        if self._numbers is None:
            await self._assign(sorted(self._consumer.partitions_for_topic(self._topic) or ()))

    async def _assign(self, numbers: Sequence[int]) -> None:
        """Read these partitions as well: from where they stand, and from their beginning those that are new."""
        wanted = {TopicPartition(self._topic, number) for number in numbers}
        if added := wanted - self._positions.keys():
            self._consumer.assign([*self._positions, *added])
            for tp, position in self._positions.items():
                self._consumer.seek(tp, position)
            self._positions |= dict.fromkeys(added, 0)
            await self._consumer.seek_to_beginning(*added)
            self._looked_at = asyncio.get_running_loop().time()

    async def _begin_anew(self) -> None:
        log.error("a topic was made anew; it is read from its beginning", topic=self._topic)
        self._positions = dict.fromkeys(self._positions, 0)
        self._made_anew()
        await self._consumer.seek_to_beginning(*self._positions)
