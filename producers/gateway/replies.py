"""Replies as gateways read them: handed to those who wait, and looked up again where they stand."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record, make_consumer, started, unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.replies import reply_from
from guideway.producers.gateway.known import Place
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.content_types import PROTOBUF
from guideway.schemas.record import Record
from guideway.schemas.reply import Reply
from guideway.schemas.wire import Undecodable

_READ_S: Final = 10.0
_WAIT_S: Final = 30.0
"""For a reply, those included that are read before it."""
_CACHE_BYTES: Final = 16 * 2**20


class Answer(msgspec.Struct, frozen=True):
    """A reply as it came: whoever passes it on need not read it."""

    content: bytes
    content_type: str
    failure: FailureCode | None
    """None: it is completed."""
    address: str
    """Of the endpoint that has answered; `/NAMESPACE/call`: none was found."""

    @property
    def is_protobuf(self) -> bool:
        """Whether it is a message, of whatever type."""
        return self.content_type.startswith(PROTOBUF)

    def reply(self) -> Reply:
        """The reply, read. Raises Refusal(internal_error)."""
        try:
            return reply_from(self.content, self.content_type)
        except Undecodable as error:
            raise Refusal(
                FailureCode.INTERNAL_ERROR,
                f"the reply is not of this gateway's version ({error}): run one version of guideway throughout",
            ) from None


def answer_of(record: Record) -> Answer:
    """What a record of a reply topic says."""

    def text(name: str) -> str:
        return (record.header(name) or b"").decode("utf-8", "replace")

    failure: FailureCode | None = None
    if text(header.STATUS) != "completed":
        try:
            failure = FailureCode(text(header.FAILURE_CODE))
        except ValueError:
            failure = FailureCode.INTERNAL_ERROR
    return Answer(record.value or b"", text(header.CONTENT_TYPE), failure, text(header.CLOUD_EVENT_SOURCE))


class Lookups:
    """`async with Lookups(cluster) as lookups:` – single replies, read where they stand; recent ones are remembered.

    Owner of a consumer, which is made when something is first looked up.
    """

    def __init__(self, cluster: Cluster, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._cluster = cluster
        self._recent: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._room = cache_bytes
        self._one_at_a_time = asyncio.Lock()
        self._consumer: Any = None

    async def __aenter__(self) -> Lookups:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def remember(self, topic: str, correlation: str, answer: Answer) -> None:
        """A reply that may be asked for soon."""
        if (topic, correlation) in self._recent:
            return
        self._recent[topic, correlation] = answer
        self._room -= _held(answer)
        while self._room < 0:
            _, oldest = self._recent.popitem(last=False)
            self._room += _held(oldest)

    async def read(self, topic: str, correlation: str, place: Place) -> Answer | None:
        """The reply; None: it is not there any more. Raises Refusal(broker_unreachable)."""
        if (known := self._recent.get((topic, correlation))) is not None:
            return known
        try:
            async with asyncio.timeout(_WAIT_S), self._one_at_a_time:
                try:
                    record = await self._record(TopicPartition(topic, place.partition), place.offset)
                except OffsetOutOfRangeError:
                    return None
                except (KafkaError, TimeoutError) as error:
                    await self._close()
                    raise unreachable(self._cluster, error) from None
        except TimeoutError as error:
            raise unreachable(self._cluster, error, connected=True) from None
        # Deleted before: the broker gives the next that there is.
        if record.offset != place.offset or record.header(header.CORRELATION_ID) != correlation.encode():
            return None
        answer = answer_of(record)
        self.remember(topic, correlation, answer)
        return answer

    async def _record(self, tp: TopicPartition, offset: int) -> Record:
        if self._consumer is None:
            self._opened = started(
                make_consumer(self._cluster, "gateway", auto_offset_reset="none", max_partition_fetch_bytes=2**20),
                self._cluster,
            )
            self._consumer = await self._opened.__aenter__()
        async with asyncio.timeout(_READ_S):
            self._consumer.assign([tp])
            self._consumer.seek(tp, offset)
            record = as_record(await self._consumer.getone(tp))
        self._consumer.unsubscribe()
        return record

    async def _close(self) -> None:
        if self._consumer is not None:
            self._consumer = None
            await self._opened.__aexit__(None, None, None)


def _held(answer: Answer) -> int:
    return len(answer.content) + 500
