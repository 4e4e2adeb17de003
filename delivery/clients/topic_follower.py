"""Topics that are read whole, outside any group, and then followed: what they say is kept in memory by whoever reads.

One consumer reads one topic, or all topics of a kind that its user may read, whatever their number. The file is
past 300 lines: reading, following and looking for topics share the positions, and are to be seen together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
    Set,
)
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started, unreachable
from guideway.delivery.clients.shared_question import SharedQuestion
from guideway.delivery.clients.shown_topics import ShownTopics
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.fetch_guards import know_topics, not_readable

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
    """`async with TopicFollower(...) as follower:` – a connected consumer; then `find`, `catch_up`, `follow`, or all
    of it by `followed`.

    Owner of the consumer and of the positions in the topics. A partition or, of a kind, a topic that is added later is
    read from its beginning. So is a topic that is deleted and made anew. Of a kind, a topic that its user may not read
    is left out, and one that is deleted is forgotten.
    """

    def __init__(
        self,
        cluster: Cluster,
        role: str,
        topics: str | Callable[[str], bool],
        take: Callable[[Sequence[ConsumerRecord[Any, Any]]], None],
        *,
        partitions: Sequence[int] | None = None,
        made_anew: Callable[[str], None] = lambda _topic: None,
        look_s: float = 10.0,
        look_again_s: float = 60.0,
    ) -> None:
        """role: in the client id. take: is given the committed records of a partition, in order, perhaps repeatedly.

        topics: the name of one, or which names are of the kind. partitions: of each topic; None for all.
        made_anew: what was taken of this topic is of one that is no more, or may not be read any more.
        look_s: seconds between two looks which topics there are, with how many partitions, and whether one was made
        anew. look_again_s: seconds between two looks where `follow` finds none; and until one is tried again that may
        not be read.
        """
        self._cluster, self._role = cluster, role
        self._topic = topics if isinstance(topics, str) else None
        self._is_ours = topics.__eq__ if isinstance(topics, str) else topics
        self._take = take
        self._numbers = partitions
        self._made_anew = made_anew
        self._look_s, self._look_again_s = look_s, look_again_s
        self._consumer: Any
        self._positions: dict[TopicPartition, int] = {}
        """Of each partition that is read, the offset of the next record; 0 before the first is known."""
        self._shown = ShownTopics(look_s=look_s, look_again_s=look_again_s)
        self._looked_at = 0.0
        self._finding = asyncio.Lock()
        self._found = asyncio.Event()
        """Set where partitions are read that were not before."""
        self._anew = 0
        """How often a topic was made anew."""
        self._following: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        self._newest_ends = SharedQuestion(self._ends_of_all)

    async def __aenter__(self) -> TopicFollower:
        """Raises Refusal(broker_unreachable)."""
        settings: dict[str, Any] = {"auto_offset_reset": "earliest"}
        if self._numbers is None:
            settings["metadata_max_age_ms"] = int(self._look_s * 1000)
        self._stack = AsyncExitStack()
        consumer = make_consumer(self._cluster, self._role, **settings)
        self._consumer = await self._stack.enter_async_context(started(consumer, self._cluster))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._stack.aclose()

    @asynccontextmanager
    async def followed(
        self,
        find: Callable[[], Awaitable[bool]] | None = None,
        *,
        timeout_s: float | None = None,
        is_needed: bool = True,
    ) -> AsyncIterator[bool]:
        """`async with follower.followed() as is_there:` – connected; all is taken that the topics hold, and then what
        comes. is_there: False: the cluster shows no such topic.

        find: in place of `find`. timeout_s: seconds for all that the topics hold. is_needed: False: what cannot be read
        now is taken later. Raises: Refusal(broker_unreachable | not_allowed); what `find` raises.
        """
        async with self:
            is_there = True
            try:
                async with asyncio.timeout(timeout_s):
                    if is_there := await (find or self.find)():
                        await self.catch_up()
            except (KafkaError, TimeoutError) as error:
                if is_needed:
                    raise unreachable(self._cluster, error, connected=True) from None
                log.warning(
                    "a topic is not all read yet; the rest is taken as it comes",
                    topic=self._topic or f"those of the {self._role}",
                    error=repr(error),
                )
            self.follow()
            yield is_there

    @property
    def topics(self) -> set[str]:
        """The topics that are read at present."""
        return {tp.topic for tp in self._positions}

    @property
    def refused(self) -> Set[str]:
        """Of a kind, the topics that are left out because they may not be read."""
        return self._shown.left_out

    # Reading ---------------------------------------------------------------------------------------------------------

    async def find(self) -> bool:
        """Whether the cluster shows such a topic; each is read from its beginning from now on. Raises KafkaError."""
        async with self._finding:
            now = asyncio.get_running_loop().time
            if rest_s := self._shown.rest_s(now()):
                await asyncio.sleep(rest_s)
            all_topics = await self._consumer.topics()
            there = {topic for topic in all_topics if self._is_ours(topic)}
            new, gone = self._shown.heed(there, self.topics, shown=len(all_topics), now=now())
            if gone and self._topic is None:
                log.warning("topics are gone; what they said is forgotten", topics=sorted(gone)[:10])
                await self._forget(gone)
            await self._read_also(self._partitions_of(await self._readable(new)))
        return bool(self._positions)

    async def ends(self) -> Ends:
        """Where the topics end at this moment. Raises KafkaError."""
        # For one that is not there the client would ask again and again.
        known = [tp for tp in self._positions if tp.topic not in self._shown.missing]
        found: Ends = await self._consumer.end_offsets(known)
        return found

    def has_read(self, ends: Ends) -> bool:
        """Whether all before these ends was taken, or left out by compaction and transaction markers."""
        return all(self._positions.get(tp, end) >= end for tp, end in ends.items())

    async def read(self, timeout_ms: int) -> bool:
        """Take what comes within `timeout_ms`; returns whether anything has. Raises KafkaError."""
        await self._look()
        before = dict(self._positions)
        try:
            found = await self._consumer.getmany(timeout_ms=timeout_ms)
        except TopicAuthorizationFailedError as error:
            await self._leave_out(error)
            return True
        anew = set[str]()
        for tp, records in found.items():
            if tp not in self._positions or tp.topic in anew:
                continue
            if records[0].offset < self._positions[tp]:
                # Kafka tells the client that its position is none, and the client goes on with the first record.
                anew.add(tp.topic)
                await self._begin_anew(tp.topic)
            else:
                self._take(records)
        for tp in list(self._positions):
            # A partition without a leader may have none yet; it must not hold up the others.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POSITION_S):
                    # The position moves past what compaction and transaction markers left out, too.
                    position = await self._consumer.position(tp)
                    if position < self._positions.get(tp, 0):
                        # As above, before the first record has come.
                        await self._begin_anew(tp.topic)
                    elif tp in self._positions:
                        self._positions[tp] = position
        async with self._moved:
            self._moved.notify_all()
        return self._positions != before

    async def catch_up(self) -> None:
        """Take all that the topics hold at this moment. Raises: KafkaError; TimeoutError as `catching_up`."""
        async for _ in self.catching_up():
            pass

    async def catching_up(self, patience_s: float = PATIENCE_S) -> AsyncGenerator[None, None]:
        """Take all that the topics hold at this moment, bit by bit, for whoever looks at each bit before the next.

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
        self._following = asyncio.create_task(self._follow(), name=f"follow {self._topic or self._role}")

    async def seen(self, offset: int, partition: int = 0, topic: str | None = None) -> None:
        """While it is followed: wait until the record at `offset` was taken, as long as that takes.

        topic: of a kind, which one. Raises KafkaError.
        """
        tp = TopicPartition(topic or self._topic or "", partition)
        while tp not in self._positions and self._topic is None:
            # It may have been made a moment ago, and not every broker knows it at once.
            await self.find()
            await asyncio.sleep(0.05)
        async with self._moved:
            await self._moved.wait_for(lambda: self._positions.get(tp, 0) > offset)

    async def current(self) -> None:
        """While it is followed: wait until all is taken that the topics hold now, as long as that takes.

        Of a kind, topics are included that were made since. Whoever asks while a question to the brokers is under way
        shares the next. Raises KafkaError.
        """
        while not await self._came_to_the_ends():
            pass

    async def _came_to_the_ends(self) -> bool:
        """False: a topic was made anew meanwhile, and may never come to where the old one ended."""
        anew = self._anew
        ends = await self._newest_ends.answer()
        async with self._moved:
            await self._moved.wait_for(lambda: anew != self._anew or self.has_read(ends))
        return anew == self._anew

    async def _ends_of_all(self) -> Ends:
        """Where the topics end, of a kind also those that were made since."""
        if self._topic is not None:
            return await self.ends()
        before = self.topics
        # Both at once: a question may have to wait behind a fetch that waits for records.
        ends, _ = await asyncio.gather(self.ends(), self.find())
        return await self.ends() if self.topics - before else ends

    async def _follow(self) -> None:
        while True:
            try:
                if self._positions:
                    await self.read(timeout_ms=1000)
                elif await self.find():
                    log.info("a topic that was missing is there now", topics=sorted(self.topics)[:10])
                else:
                    # Whoever waits for a record may find its topic sooner.
                    self._found.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._look_again_s):
                            await self._found.wait()
            except Exception as error:
                # Whatever it is, it must not end this task unseen: what was long ago would be believed for ever.
                say = log.warning if isinstance(error, KafkaError) else log.error
                say(
                    "a topic cannot be followed; it is tried again",
                    topic=self._topic or f"those of the {self._role}",
                    error=repr(error),
                )
                await asyncio.sleep(_REST_S)
                for tp, position in self._positions.items():
                    self._consumer.seek(tp, position)

    # Changes of the topics -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Every `look_s`: which topics there are, whether one was made anew, or has more partitions."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < self._look_s:
            return
        self._looked_at = now
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_ANSWER_S):
                if self._topic is None:
                    await self.find()
                ends = await self.ends()
                # noida-db tells nothing of a position beyond the end.
                for topic in {tp.topic for tp, end in ends.items() if self._positions.get(tp, 0) > end}:
                    await self._begin_anew(topic)
        if self._numbers is None:
            await self._read_also(self._partitions_of(self.topics))

    async def _readable(self, new: Set[str]) -> Set[str]:
        """Those of these topics that may be read, as far as is known before."""
        if not new or (self._topic is not None and self._numbers is not None):
            return new
        await know_topics(self._consumer, new)
        if self._topic is not None:
            return new
        refused = await not_readable(self._consumer, self._partitions_of(new))
        for topic in refused:
            self._note_refused(topic)
        return new - refused

    def _note_refused(self, topic: str) -> None:
        log.warning("a topic may not be read, and is left out", topic=topic)
        self._shown.refused(topic, asyncio.get_running_loop().time())

    def _partitions_of(self, topics: Iterable[str]) -> set[TopicPartition]:
        if self._numbers is not None:
            return {TopicPartition(topic, number) for topic in topics for number in self._numbers}
        return {
            TopicPartition(topic, number)
            for topic in topics
            for number in self._consumer.partitions_for_topic(topic) or ()
        }

    async def _read_also(self, wanted: Collection[TopicPartition]) -> None:
        """Read these partitions as well: from where they stand, and from their beginning those that are new."""
        if added := set(wanted) - self._positions.keys():
            self._consumer.assign([*self._positions, *added])
            for tp, position in self._positions.items():
                self._consumer.seek(tp, position)
            self._positions |= dict.fromkeys(added, 0)
            self._found.set()
            self._looked_at = asyncio.get_running_loop().time()
            # One without a leader begins when it has one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    await self._consumer.seek_to_beginning(*added)

    async def _forget(self, topics: Collection[str]) -> None:
        self._positions = {tp: position for tp, position in self._positions.items() if tp.topic not in topics}
        self._shown.forget(topics)
        self._consumer.assign(list(self._positions))
        for tp, position in self._positions.items():
            self._consumer.seek(tp, position)
        for topic in topics:
            self._made_anew(topic)
        async with self._moved:
            self._moved.notify_all()

    async def _leave_out(self, error: TopicAuthorizationFailedError) -> None:
        """Of a kind, whatever may not be read. Raises the error where one topic only is read."""
        topic = error.args[0] if error.args else None
        if self._topic is not None or topic not in self.topics:
            raise error
        self._note_refused(topic)
        await self._forget({topic})

    async def _begin_anew(self, topic: str) -> None:
        log.error("a topic was made anew; it is read from its beginning", topic=topic)
        again = [tp for tp in self._positions if tp.topic == topic]
        self._positions |= dict.fromkeys(again, 0)
        self._anew += 1
        self._made_anew(topic)
        if again:
            # Of none, all would be meant.
            await self._consumer.seek_to_beginning(*again)
