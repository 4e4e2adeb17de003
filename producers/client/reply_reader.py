"""Reads committed records of reply topics: for submissions that wait, and as a stream without repeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record, make_consumer, started, unreachable
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.recent_keys import RecentKeys
from guideway.delivery.replies import reply_in
from guideway.producers.client.awaited import Awaited, Work
from guideway.producers.client.readers import TopicReader, assign_at_end
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.names.clients import client_id
from guideway.schemas.names.topics import endpoint_of_reply_topic, endpoint_of_topic
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.record import Record
from guideway.schemas.reply import Failed, Reply
from guideway.schemas.wire import Undecodable

log = structlog.get_logger(__name__)


class ReplyReader(TopicReader):
    """Reads one reply topic from its present end, and gives each reply once to those who wait for it."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        super().__init__(topic, make_consumer(cluster, "client"))
        self._cluster = cluster
        self._awaited: Awaited[asyncio.Future[Reply]] = Awaited()
        self._why = Refusal(FailureCode.INVALID_SETTING, "the client was closed: submit again with one that is open")
        """Why reading has ended, where it has."""

    def expect(self, correlation: bytes, work: Work | None) -> asyncio.Future[Reply]:
        """A future for the reply with this correlation id, or for the first reply to this work.

        Raises Refusal where reading has ended: nothing would ever come.
        """
        if self.ended:
            raise self._why
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._awaited.expect(future, correlation, work)
        future.add_done_callback(lambda _: self._awaited.drop(correlation))
        return future

    def _failed(self, error: Exception) -> None:
        told = unreachable(self._cluster, error)
        if not isinstance(error, KafkaError):
            log.error("replies cannot be read", topic=self.topic, exc_info=error)
            told = Refusal(
                FailureCode.INTERNAL_ERROR,
                f"the replies cannot be read any more ({type(error).__name__}): submit again, and report it",
            )
        self._why = told
        for future in self._awaited.waiting:
            if not future.done():
                future.set_exception(told)

    def _hand_out(self, record: Record) -> None:
        # By the headers only: others may share the topic, and their replies are not decoded.
        work = (_text(record, header.CLOUD_EVENT_SOURCE), _text(record, header.REQUEST_ID))
        waiting = self._awaited.take(record.header(header.CORRELATION_ID) or b"", work, time.monotonic())
        for future in waiting:
            if future.done():
                continue
            try:
                future.set_result(reply_in(record))
            except Undecodable as error:
                future.set_exception(_of_another_version(error))


def _of_another_version(error: Undecodable) -> Refusal:
    return Refusal(
        FailureCode.INTERNAL_ERROR,
        f"the reply is not of this version ({error}): use the guideway of the workers, and look who else writes there",
    )


class AnsweredOnce:
    """Which replies of a stream are repeats. Pure."""

    def __init__(self, *, limit: int = 100_000, ttl_s: float = 3600.0) -> None:
        self._window: RecentKeys[tuple[str, str, str]] = RecentKeys(limit=limit, ttl_s=ttl_s)

    def admits(self, reply: Reply, now: float) -> bool:
        """Whether the reply is new. A retryable failure is not final: it is new each time, and so is its successor.

        Otherwise a caller who publishes again with the same id after such a failure would never see the reply.
        """
        work = (reply.namespace, reply.endpoint, reply.id)
        if isinstance(reply, Failed) and reply.retryable:
            return not self._window.holds(work, now)
        return self._window.add(work, now)


def _say_undecodable(record: Record, error: Undecodable) -> None:
    log.warning("no reply of this version", topic=record.topic, offset=record.offset, reason=str(error))


def no_endpoint(address: str, topic: str, topics: Iterable[str]) -> Refusal:
    """The refusal for an endpoint whose topic does not exist in the cluster."""
    known = [endpoint_address(*one) for one in map(endpoint_of_topic, topics) if one is not None]
    if not known:
        return Refusal(
            FailureCode.UNKNOWN_ENDPOINT,
            f"there is no endpoint {address} (no topic {topic}), and this cluster has none at all: apply it with "
            "`guideway apply -f FILE`, or see that KAFKA_BOOTSTRAP_SERVERS names the right cluster",
        )
    return Refusal(
        FailureCode.UNKNOWN_ENDPOINT,
        f"there is no endpoint {address} (no topic {topic}): {did_you_mean(address, known)}"
        "`guideway get endpoints` lists what there is",
    )


@asynccontextmanager
async def replies(
    cluster: Cluster,
    topic: str,
    *,
    from_beginning: bool = False,
    role: str = "client",
    on_undecodable: Callable[[Record, Undecodable], None] = _say_undecodable,
) -> AsyncIterator[AsyncIterator[Reply]]:
    """`async with replies(...) as stream: async for reply in stream:` – the topic's replies, once for each request id.

    The stream begins at the topic's end on entry, so that nothing published later is missed. It remembers the last
    100,000 ids for an hour. Raises Refusal: unknown_endpoint if there is no such topic; broker_unreachable, also from
    the stream.
    """
    async with received(
        cluster, topic, from_beginning=from_beginning, role=role, on_undecodable=on_undecodable
    ) as stream:
        yield (reply async for _, reply in stream)


@asynccontextmanager
async def received(
    cluster: Cluster,
    topic: str,
    *,
    from_beginning: bool = False,
    role: str = "client",
    on_undecodable: Callable[[Record, Undecodable], None] = _say_undecodable,
) -> AsyncIterator[AsyncIterator[tuple[Record, Reply]]]:
    """As `replies`, each reply with its record."""
    async with AsyncExitStack() as stack:
        directory = await stack.enter_async_context(started(TopicDirectory(cluster, client_id(role)), cluster))
        consumer = await stack.enter_async_context(
            started(make_consumer(cluster, role, auto_offset_reset="earliest" if from_beginning else "latest"), cluster)
        )
        try:
            partitions = await directory.partitions(topic)
            if not partitions:
                of = endpoint_of_reply_topic(topic)
                raise no_endpoint(endpoint_address(*of) if of else topic, topic, directory.topics)
            if from_beginning:
                consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
            else:
                await assign_at_end(consumer, topic, partitions)
        except KafkaError as error:
            raise unreachable(cluster, error) from None
        yield _once(consumer, cluster, on_undecodable)


async def _once(
    consumer: Any, cluster: Cluster, on_undecodable: Callable[[Record, Undecodable], None]
) -> AsyncIterator[tuple[Record, Reply]]:
    news = AnsweredOnce()
    try:
        async for one in consumer:
            record = as_record(one)
            try:
                reply = reply_in(record)
            except Undecodable as error:
                on_undecodable(record, error)
                continue
            if news.admits(reply, time.monotonic()):
                yield record, reply
    except KafkaError as error:
        raise unreachable(cluster, error) from None


def _text(record: Record, name: str) -> str:
    return (record.header(name) or b"").decode("utf-8", "replace")
