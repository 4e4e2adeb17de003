"""What is noted of shadows on `gw.NAMESPACE.shadows.v1`: followed, and written by whoever has the pen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import msgspec
import structlog
from aiokafka.errors import KafkaError

from guideway.catalogue.writing import Overtaken
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import owner_of_shadows, shadows_topic
from guideway.schemas.services.shadow import ShadowState
from guideway.schemas.wire import SHADOW, Undecodable
from guideway.usecases.shadows.book import Book, Rows, tombstones
from guideway.usecases.shadows.pen import Pen, sole_pen

log = structlog.get_logger(__name__)

_MOST_TROUBLE: Final = 1000


class Notes:
    """Owned by one service. `async with notes.followed():` – what they say is complete on entry, then current."""

    def __init__(self, cluster: Cluster, namespaces: Collection[str]) -> None:
        """namespaces: whose; none: those of all that this user may read."""
        self.book: Final = Book()
        self._cluster, self._only = cluster, frozenset(namespaces)
        reader = TopicReader(
            cluster,
            "shadows",
            self._is_ours,
            self._take,
            made_anew=self.book.forget,
            look_s=2.0,
            look_again_s=2.0,
        )
        self._topics = TopicFollower(reader)
        self._pens: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def followed(self) -> AbstractAsyncContextManager[bool]:
        """Raises Refusal(broker_unreachable)."""
        return self._topics.followed()

    async def current(self) -> None:
        """Wait until all is read that the topics hold now. Raises KafkaError."""
        await self._topics.current()

    def state(self, namespace: str, name: str) -> ShadowState | None:
        """How far the shadow of this endpoint is; None: it has had none."""
        return self.book.state(namespace, name)

    def rows(self, namespace: str, name: str, shadow: str) -> Rows:
        """Those of this shadow."""
        return self.book.rows(namespace, name, shadow)

    @asynccontextmanager
    async def pen(self, namespace: str) -> AsyncIterator[Pen]:
        """The right to write, with all read that was written before. Raises Refusal, KafkaError."""
        async with self._pens[namespace], sole_pen(self._cluster, namespace) as pen:
            await self.current()
            yield pen

    async def write(self, pen: Pen, namespace: str, name: str, state: ShadowState, *, clear: bool = False) -> None:
        """Write how far it is, and wait until that is read. clear: all rows are gone then.

        Raises: Overtaken; Refusal; KafkaError.
        """
        gone = tombstones(self.book.keys(namespace, name)) if clear else []
        offset = await pen.write([(name.encode(), SHADOW.encode(state)), *gone])
        await self._topics.seen(offset, topic=shadows_topic(namespace))

    async def tell(self, namespace: str, name: str, trouble: str) -> bool:
        """Say what keeps it up, where that is new; empty: nothing does. Returns whether that is said: perhaps it cannot
        be, now.
        """
        trouble = trouble[:_MOST_TROUBLE]
        state = self.state(namespace, name)
        if state is None or state.stage == "ended" or state.trouble == trouble:
            return True
        with contextlib.suppress(Refusal, KafkaError, TimeoutError, Overtaken):
            async with self.pen(namespace) as pen:
                there = self.state(namespace, name)
                if there is not None and (there.shadow, there.stage) == (state.shadow, state.stage):
                    told = msgspec.structs.replace(there, at_ms=now_ms(), trouble=trouble)
                    await self.write(pen, namespace, name, told)
            return True
        return False

    async def require_topic(self, namespace: str) -> None:
        """Make the topic, where it is not there. Raises Refusal: not_allowed where this user sees none then."""
        if shadows_topic(namespace) in self._topics.topics:
            return
        await make_topics(self._cluster, topics.shadows(namespace), without_right=True)
        await self._topics.find()
        if shadows_topic(namespace) not in self._topics.topics:
            raise Refusal(
                FailureCode.NOT_ALLOWED,
                f"this user sees no topic {shadows_topic(namespace)}: `guideway steward` makes it, or whoever "
                f"runs the cluster with `guideway namespaces create {namespace}`",
            )

    def _is_ours(self, topic: str) -> bool:
        namespace = owner_of_shadows(topic)
        return namespace is not None and (not self._only or namespace in self._only)

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            try:
                self.book.absorb(record.topic, record.key, record.value)
            except Undecodable as error:
                log.warning("a record of a shadow counts for nothing", topic=record.topic, why=str(error))


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
