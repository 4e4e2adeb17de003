"""Topics that are found and read from their beginning, outside any group, by one consumer.

It reads one topic, or all topics of a kind that its user may read, whatever their number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence, Set
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final

import structlog
from aiokafka.errors import IllegalStateError, KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.clients.positions import Ends, Positions
from guideway.delivery.clients.shown_topics import ShownTopics
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.fetch_guards import know_topics, not_readable

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 20.0
"""How long nothing may come of a topic that holds more."""
_ANSWER_S: Final = 5.0
"""For a question about a topic's end that can be asked again."""
_POSITION_S: Final = 0.5


class TopicReader:
    """`async with TopicReader(...) as reader:` – a connected consumer; then `find` and `catch_up`, or `read` by `read`.

    Owner of the consumer and of the positions in the topics. A partition or, of a kind, a topic that is added later is
    read from its beginning. So is a topic that is deleted and made anew. Of a kind, a topic that its user may not read
    is left out, and one that is deleted is forgotten. One task reads; others may look for topics meanwhile, and wait.
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
        anew. look_again_s: seconds until one is tried again that may not be read, or was not there.
        """
        self.cluster, self.look_again_s = cluster, look_again_s
        self.topic = topics if isinstance(topics, str) else None
        """The one that is read; None: all of a kind."""
        self.what = self.topic or f"those of the {role}"
        """What is read, for messages."""
        self.positions = Positions()
        self.found = asyncio.Event()
        """Set where partitions are read that were not before."""
        self._role = role
        self._is_ours = topics.__eq__ if isinstance(topics, str) else topics
        self._take = take
        self._numbers = partitions
        self._made_anew = made_anew
        self._look_s = look_s
        self._consumer: Any
        self._shown = ShownTopics(look_s=look_s, look_again_s=look_again_s)
        self._looked_at = 0.0
        self._finding = asyncio.Lock()
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> TopicReader:
        """Raises Refusal(broker_unreachable)."""
        settings: dict[str, Any] = {"auto_offset_reset": "earliest"}
        if self._numbers is None:
            settings["metadata_max_age_ms"] = int(self._look_s * 1000)
        self._stack = AsyncExitStack()
        consumer = make_consumer(self.cluster, self._role, **settings)
        self._consumer = await self._stack.enter_async_context(started(consumer, self.cluster))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def refused(self) -> Set[str]:
        """Of a kind, the topics that are left out because they may not be read."""
        return self._shown.left_out

    # Finding ---------------------------------------------------------------------------------------------------------

    async def find(self) -> bool:
        """Whether the cluster shows such a topic; each is read from its beginning from now on. Raises KafkaError."""
        async with self._finding:
            now = asyncio.get_running_loop().time
            if rest_s := self._shown.rest_s(now()):
                await asyncio.sleep(rest_s)
            all_topics = await self._consumer.topics()
            there = {topic for topic in all_topics if self._is_ours(topic)}
            new, gone = self._shown.heed(there, self.positions.topics, shown=len(all_topics), now=now())
            if gone and self.topic is None:
                log.warning("topics are gone; what they said is forgotten", topics=sorted(gone)[:10])
                await self._forget(gone)
            await self._read_also(self._partitions_of(await self._readable(new)))
        return bool(self.positions)

    async def _readable(self, new: Set[str]) -> Set[str]:
        """Those of these topics that may be read, as far as is known before."""
        if not new or (self.topic is not None and self._numbers is not None):
            return new
        await know_topics(self._consumer, new)
        if self.topic is not None:
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

    # Reading ---------------------------------------------------------------------------------------------------------

    async def ends(self) -> Ends:
        """Where the topics end at this moment. Raises KafkaError."""
        # For one that is not there the client would ask again and again.
        known = [tp for tp in self.positions if tp.topic not in self._shown.missing]
        found: Ends = await self._consumer.end_offsets(known)
        return found

    async def read(self, timeout_ms: int) -> bool:
        """Take what comes within `timeout_ms`; returns whether anything has. Raises KafkaError."""
        await self._look()
        before = dict(self.positions.items())
        try:
            found = await self._consumer.getmany(timeout_ms=timeout_ms)
        except TopicAuthorizationFailedError as error:
            await self._leave_out(error)
            return True
        anew = set[str]()
        for tp, records in found.items():
            if tp not in self.positions or tp.topic in anew:
                continue
            if self.positions.goes_back(tp, records[0].offset):
                # Kafka tells the client that its position is none, and the client goes on with the first record.
                anew.add(tp.topic)
                await self._begin_anew(tp.topic)
            else:
                self._take(records)
        for tp in list(self.positions):
            # A partition without a leader may have none yet; it must not hold up the others.
            try:
                async with asyncio.timeout(_POSITION_S):
                    # The position moves past what compaction and transaction markers left out, too.
                    position = await self._consumer.position(tp)
                    if self.positions.goes_back(tp, position):
                        # As above, before the first record has come.
                        await self._begin_anew(tp.topic)
                    else:
                        self.positions.move(tp, position)
            except TimeoutError:
                continue
            except IllegalStateError:
                # Its topic is gone: whoever looked for topics meanwhile has forgotten it.
                if tp in self.positions:
                    raise
        async with self._moved:
            self._moved.notify_all()
        return dict(self.positions.items()) != before

    async def catch_up(self) -> None:
        """Take all that the topics hold at this moment. Raises: KafkaError; TimeoutError as `catching_up`."""
        async for _ in self.catching_up():
            pass

    async def catching_up(self, patience_s: float = PATIENCE_S) -> AsyncGenerator[None, None]:
        """Take all that the topics hold at this moment, bit by bit, for whoever looks at each bit before the next.

        Raises: KafkaError; TimeoutError if nothing comes for `patience_s` seconds though there is more.
        """
        now = asyncio.get_running_loop().time
        anew, ends = self.positions.anew, await self.ends()
        moved_at = now()
        while not self.positions.has_reached(ends):
            if await self.read(timeout_ms=200):
                moved_at = now()
            elif now() - moved_at > patience_s:
                raise TimeoutError
            if anew != self.positions.anew:
                # One that was made anew may never come to where the old one ended.
                anew, ends = self.positions.anew, await self.ends()
            yield

    def go_back(self) -> None:
        """After an error: read on after what was taken. The call that failed may have moved the client further."""
        for tp, position in self.positions.items():
            self._consumer.seek(tp, position)

    async def until(self, is_so: Callable[[Positions], bool]) -> None:
        """While another task reads: wait until this is so of the positions."""
        async with self._moved:
            await self._moved.wait_for(lambda: is_so(self.positions))

    # Changes of the topics -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Every `look_s`: which topics there are, whether one was made anew, or has more partitions."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < self._look_s:
            return
        self._looked_at = now
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_ANSWER_S):
                if self.topic is None:
                    await self.find()
                # noida-db tells nothing of a position beyond the end.
                for topic in self.positions.beyond(await self.ends()):
                    await self._begin_anew(topic)
        if self._numbers is None:
            await self._read_also(self._partitions_of(self.positions.topics))

    async def _read_also(self, wanted: Collection[TopicPartition]) -> None:
        """Read these partitions as well: from where they stand, and from their beginning those that are new."""
        if added := {tp for tp in wanted if tp not in self.positions}:
            self._consumer.assign([*self.positions, *added])
            self.go_back()
            self.positions.add(added)
            self.found.set()
            self._looked_at = asyncio.get_running_loop().time()
            # One without a leader begins when it has one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    await self._consumer.seek_to_beginning(*added)

    async def _forget(self, topics: Collection[str]) -> None:
        self.positions.forget(topics)
        self._shown.forget(topics)
        self._consumer.assign(list(self.positions))
        self.go_back()
        for topic in topics:
            self._made_anew(topic)
        async with self._moved:
            self._moved.notify_all()

    async def _leave_out(self, error: TopicAuthorizationFailedError) -> None:
        """Of a kind, whatever may not be read. Raises the error where one topic only is read."""
        topic = error.args[0] if error.args else None
        if self.topic is not None or topic not in self.positions.topics:
            raise error
        self._note_refused(topic)
        await self._forget({topic})

    async def _begin_anew(self, topic: str) -> None:
        log.error("a topic was made anew; it is read from its beginning", topic=topic)
        self.positions.begin_anew(topic)
        self._made_anew(topic)
        if again := self.positions.of(topic):
            # Of none, all would be meant.
            await self._consumer.seek_to_beginning(*again)
