"""Writes to the catalogue: versions are planned and written by one writer at a time in each namespace."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

from aiokafka.errors import (
    KafkaError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from guideway.catalogue.changes import Change, Deletion, Moved, catalogue_records
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower, Written
from guideway.delivery.clients.kafka_client import START_TIMEOUT_S, make_producer, started, unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.transaction_guards import OutcomeUnknown, TopicsRefused, discard
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.groups import writer_of
from guideway.schemas.names.service_topics import catalogue_topic, owner_of_catalogue

C = TypeVar("C", Change, Deletion, Moved)
_TRIES: Final = 5
"""At publishing, where others publish at the same time."""


class Overtaken(Exception):
    """Somebody else has begun to write since; nothing was written."""


class _Unsure(Overtaken):
    """The brokers did not say whether it was written: whoever reads the catalogue anew sees."""


class _Writer:
    """The right to write one topic of the catalogue, until somebody else takes it."""

    def __init__(self, cluster: Cluster, topic: str, by: str) -> None:
        self._cluster, self._topic = cluster, topic
        self._headers = [(header.APPLIED_BY, by.encode())] if by else []
        self._producer: Any = make_producer(cluster, "catalogue", transactional_id=writer_of(topic))

    async def begin(self) -> None:
        """Take the right. Raises: Refusal `broker_unreachable`, `not_allowed`."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._producer.start()
        except (KafkaError, TimeoutError) as error:
            raise self._refusal(error) from None

    async def write(self, records: Sequence[tuple[bytes, bytes | None]]) -> int:
        """Write these records (key, value), all or none; returns the last offset. Raises: Overtaken; Refusal."""
        last = -1
        try:
            async with self._producer.transaction():
                for key, value in records:
                    written = await self._producer.send_and_wait(
                        self._topic, key=key, value=value, partition=0, headers=self._headers
                    )
                    last = written.offset
        except TopicsRefused:
            raise not_allowed(self._topic) from None
        except OutcomeUnknown:
            raise _Unsure from None
        except ProducerFenced:
            raise Overtaken from None
        except KafkaError as error:
            raise self._refusal(error) from None
        return last

    async def end(self) -> None:
        """Free what it holds."""
        await discard(self._producer)

    def _refusal(self, error: BaseException) -> Refusal:
        if isinstance(error, TransactionalIdAuthorizationFailed | TopicAuthorizationFailedError):
            return not_allowed(self._topic)
        return unreachable(self._cluster, error)


def not_allowed(topic: str) -> Refusal:
    """Whoever runs this has no right to write that topic of the catalogue."""
    namespace = owner_of_catalogue(topic)
    what = f"change nothing of namespace {namespace}" if namespace else "publish biases of labels"
    return Refusal(
        FailureCode.NOT_ALLOWED,
        f"this user may {what}: it needs the rights to write the topic {topic} and to use the transactional id "
        f"{writer_of(topic)}; ask whoever runs the cluster for them, or name a namespace of yours",
    )


@contextlib.asynccontextmanager
async def sole_writer(
    cluster: Cluster, topics: Iterable[str], *, by: str = ""
) -> AsyncIterator[Callable[[Iterable[Change | Deletion | Moved]], Awaitable[Written]]]:
    """`async with sole_writer(cluster, topics) as write:` – read the catalogue, plan, `await write(changes)` once.

    topics: those of the catalogue that are to be written. All changes of one topic become visible together, and only if
    nobody has entered here for that topic since: whoever enters takes the right to write from whoever is inside (a
    transactional id for each topic, which fences), so that no version is planned twice. Rights are taken and topics are
    written in the order of their names; what was written before one fails stays. by: a program that does it by itself.

    `write` returns the last offset in each topic. Raises: Overtaken; Refusal `broker_unreachable`, `not_allowed`; where
    some topics were written before one failed, `PartlyWritten` from that error.
    """
    writers: dict[str, _Writer] = {}

    async def write(changes: Iterable[Change | Deletion | Moved]) -> Written:
        by_topic: dict[str, list[tuple[bytes, bytes | None]]] = {}
        for topic, key, value in catalogue_records(changes):
            by_topic.setdefault(topic, []).append((key, value))
        assert by_topic.keys() <= writers.keys(), "the right to write was taken for other topics"
        written: dict[str, int] = {}
        for topic in sorted(by_topic):
            try:
                written[topic] = await writers[topic].write(by_topic[topic])
            except (Overtaken, Refusal) as error:
                if written:
                    raise PartlyWritten(written, error) from None
                raise
        return written

    async with AsyncExitStack() as stack:
        for topic in sorted(set(topics)):
            writers[topic] = writer = _Writer(cluster, topic, by)
            stack.push_async_callback(writer.end)
            await writer.begin()
        yield write


async def require_right(cluster: Cluster, namespaces: Iterable[str]) -> None:
    """For whoever has much to do before it writes. Raises Refusal: `not_allowed` if it may not write in one of them."""
    async with sole_writer(cluster, map(catalogue_topic, namespaces)):
        pass


class PartlyWritten(Exception):
    """Some topics were written, and then one failed."""

    def __init__(self, written: Written, reason: Overtaken | Refusal) -> None:
        super().__init__(str(reason))
        self.written = written
        self.reason = reason


async def publish_planned(
    cluster: Cluster,
    topics: Iterable[str],
    planned: Callable[[Catalogue], Awaitable[Sequence[C]]],
    *,
    reader: CatalogueFollower | None = None,
    by: str = "",
) -> tuple[Sequence[C], Written]:
    """Plan on the catalogue as it is, write, and wait until that is seen; returns the changes and what `publish` does.

    topics: of the catalogue, in which `planned` may change something. planned: called again where others published
    meanwhile, for they may have taken the versions that it named. reader: one that follows the catalogue already; else
    one is made. by: the program that does it by itself (`header.APPLIED_BY`); empty: somebody does.

    Each topic is written whole or not at all. If a later one fails, the earlier ones stay written, and the Refusal
    says so: to do the same again writes only what is missing.

    Raises: what `planned` raises; Refusal `invalid_setting` if others go on, or if there is no such topic;
    `not_allowed`; `broker_unreachable`.
    """
    topics = sorted(set(topics))
    done: dict[tuple[object, int], C] = {}
    all_written: dict[str, int] = {}
    last: Overtaken | None = None
    for _ in range(_TRIES):
        async with AsyncExitStack() as stack:
            write = await stack.enter_async_context(sole_writer(cluster, topics, by=by))
            current = reader
            if current is None:
                current = await stack.enter_async_context(CatalogueFollower(cluster))
            try:
                await current.require(topics)
            except KafkaError as error:
                raise unreachable(cluster, error) from None
            changes = await planned(current.catalogue)
            written: Written = {}
            try:
                written = await write(changes)
            except Overtaken as overtaken:
                last = overtaken
            except PartlyWritten as partly:
                await current.seen(partly.written)
                all_written |= partly.written
                done |= {(one.identity, one.version): one for one in changes if one.identity.topic in partly.written}
                if isinstance(partly.reason, Refusal):
                    raise _some_written(partly) from None
                last = partly.reason
            else:
                await current.seen(written)
                # What an earlier try has written is unchanged by now.
                return [done.get((one.identity, one.version), one) for one in changes], all_written | {**written}
        await asyncio.sleep(random.uniform(0.2, 2))
    code, why = FailureCode.INVALID_SETTING, "others publish at the same time, again and again"
    if isinstance(last, _Unsure):
        code, why = FailureCode.BROKER_UNREACHABLE, "the brokers do not answer whether they have what is published"
    if all_written:
        raise Refusal(code, f"{why}: {_what_is_done(all_written)}")
    raise Refusal(code, f"{why}; nothing is seen of it: run the command again")


def _some_written(partly: PartlyWritten) -> Refusal:
    reason = partly.reason
    assert isinstance(reason, Refusal)
    return Refusal(reason.code, f"{reason.message}; {_what_is_done(partly.written)}")


def _what_is_done(written: Written) -> str:
    there = ", ".join(owner_of_catalogue(topic) or topic for topic in sorted(written))
    return f"published was what belongs to {there}, and nothing else: run the command again for the rest"


async def publish(cluster: Cluster, changes: Iterable[Change | Deletion | Moved]) -> Written:
    """Write changes; returns the offset of the last record in each topic.

    Only for where nobody else writes: records are written one by one, and no other writer is fenced. Else use
    `publish_planned`. Raises Refusal(broker_unreachable).
    """
    last: dict[str, int] = {}
    async with started(make_producer(cluster, "catalogue"), cluster) as producer:
        for topic, key, value in catalogue_records(changes):
            try:
                written = await producer.send_and_wait(topic, key=key, value=value, partition=0)
            except KafkaError as error:
                raise unreachable(cluster, error) from None
            last[topic] = written.offset
    return last
