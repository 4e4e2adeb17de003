"""The catalogue's topics: read whole and then followed. identity.py and entries.py decide what counts of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, TypeVar

import structlog
from aiokafka.errors import KafkaError

from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import PUBLIC
from guideway.schemas.names.service_topics import (
    PUBLIC_CATALOGUE_TOPIC,
    catalogue_topic,
    is_catalogue_topic,
    owner_of_catalogue,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")
Written = Mapping[str, int]
"""Topic of the catalogue → the offset of the last record that was written to it."""
_MAY_BE_ON_ITS_WAY: Final = {
    FailureCode.UNKNOWN_ENDPOINT,
    FailureCode.UNKNOWN_MODEL_SIZE,
    FailureCode.GUIDANCE_UNKNOWN,
    FailureCode.NOT_ALLOWED,
    FailureCode.NO_ROUTE,
}
_WAITS_S: Final = (0.1, 0.4, 1.5, None)
"""Brokers learn one after the other of a topic that was just made."""


class CatalogueFollower:
    """`async with CatalogueFollower(cluster) as reader:` – `reader.catalogue` is complete on entry, then current.

    It reads the catalogue of each namespace that its user may read, and the biases of labels, with one consumer.
    """

    def __init__(self, cluster: Cluster, timeout_s: float = 20, look_s: float = 10) -> None:
        """timeout_s: seconds to read the topics. look_s: seconds between two looks which topics there are."""
        self.catalogue = Catalogue()
        self._cluster = cluster
        self._timeout_s = timeout_s
        reader = TopicReader(
            cluster,
            "catalogue",
            is_catalogue_topic,
            self._take,
            partitions=[0],
            made_anew=self.catalogue.forget_topic,
            look_s=look_s,
        )
        self._topics = TopicFollower(reader)

    async def __aenter__(self) -> CatalogueFollower:
        """Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no catalogue to be seen."""
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self._topics.followed(self._require_any, timeout_s=self._timeout_s))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def topics(self) -> Collection[str]:
        """The topics that are read at present: those of other namespaces may be hidden from this user."""
        return self._topics.topics

    def sees(self, namespace: str) -> bool:
        """Whether the catalogue of this namespace is read."""
        return catalogue_topic(namespace) in self._topics.topics

    async def seen(self, written: Written, timeout_s: float = 10) -> None:
        """Wait until what was written is part of the catalogue. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            for topic, offset in written.items():
                await self._topics.seen(offset, topic=topic)

    async def eventually(self, ask: Callable[[Catalogue], T], timeout_s: float = 3) -> T:
        """`ask(catalogue)`; where that finds something unknown, again with all that the topics hold at this moment.

        What a record refers to may have been applied a moment before the record was sent, in a namespace that was made
        a moment before. The brokers are asked whether we are behind, so a name that is gone costs one question and no
        waiting. timeout_s: for brokers that do not answer. Raises what `ask` raises.
        """
        try:
            return ask(self.catalogue)
        except Refusal as refusal:
            if refusal.code not in _MAY_BE_ON_ITS_WAY:
                raise
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(timeout_s):
                await self.current()
        return ask(self.catalogue)

    async def current(self) -> None:
        """Wait until all is read that the topics hold now, as long as that takes. Raises KafkaError."""
        await self._topics.current()

    async def require(self, topics: Collection[str]) -> None:
        """Wait until these topics are read, to where they end now: no version in them may be overlooked.

        Raises: KafkaError; Refusal(invalid_setting) for one that is not there, or may not be read.
        """
        for wait_s in _WAITS_S:
            if {*topics} <= {*self._topics.topics}:
                await self.current()
                return
            await self._topics.find()
            if wait_s is not None and not {*topics} <= {*self._topics.topics}:
                await asyncio.sleep(wait_s)
        hidden = sorted({*topics} - {*self._topics.topics})
        raise _no_topic(self._cluster, hidden[0])

    async def _require_any(self) -> bool:
        for wait_s in _WAITS_S:
            if await self._topics.find():
                return True
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        raise _no_topic(self._cluster, PUBLIC_CATALOGUE_TOPIC)

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            unreadable = self.catalogue.unreadable
            try:
                self.catalogue.absorb(record.topic, record.key, record.value)
            except Exception as error:
                # One record must not keep every process of the cluster from starting.
                self.catalogue.strangers += 1
                log.error(
                    "a record of the catalogue is passed over",
                    topic=record.topic,
                    offset=record.offset,
                    error=repr(error),
                )
            else:
                if self.catalogue.unreadable > unreadable:
                    log.warning(
                        "an entry of the catalogue cannot be read; `guideway get` says why",
                        topic=record.topic,
                        offset=record.offset,
                        key=(record.key or b"").decode("utf-8", "replace")[:200],
                    )


class NoCatalogue(Refusal):
    """A catalogue is not there, or not for this user: it may be made or shown at any time."""


def _no_topic(cluster: Cluster, topic: str) -> NoCatalogue:
    namespace = owner_of_catalogue(topic)
    whose = (
        f"ask whoever runs the cluster for the namespace {namespace} and the right to read it"
        if namespace not in (None, PUBLIC)
        else "ask whoever runs the cluster for the right to read it"
    )
    return NoCatalogue(
        FailureCode.INVALID_SETTING,
        f"the cluster at {cluster} shows no topic {topic}: run `guideway topics apply`, or, on a cluster with rights, "
        f"{whose}",
    )
