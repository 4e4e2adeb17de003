"""The client library: submit events, await replies, many in flight.

async with Client("localhost:9092") as client:
    reply = await client.submit("/public/round", {"text": "Is the Earth round?"})
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from guideway.delivery.clients.kafka_client import make_producer, unreachable
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.client.event_headers import Content, asked, called, encoded
from guideway.producers.client.partial_reader import PartialReader, streamed
from guideway.producers.client.readers import Readers, begun
from guideway.producers.client.reply_reader import ReplyReader, no_endpoint, replies
from guideway.producers.events.envelope import MAX_ID_CHARS, is_id
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.addresses import CALL, NAME, endpoint_address
from guideway.schemas.names.clients import client_id
from guideway.schemas.names.topics import call_topic, event_topic, partial_topic_beside, reply_topic
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Reply


class Client:
    """Publishes events as an idempotent producer and reads committed replies. One per process is enough."""

    def __init__(self, cluster: Cluster | str, *, reply_to: str | None = None) -> None:
        """reply_to: a reply topic of the namespace for all endpoints; None: each endpoint's own."""
        self._cluster = Cluster.of(cluster) if isinstance(cluster, str) else cluster
        self._reply_to = reply_to
        self._readers = Readers(self._reply_reader)
        self._partial_readers = Readers(self._partial_reader)
        self._is_open = False

    async def __aenter__(self) -> Client:
        # A Kafka client belongs to the event loop in which it is made.
        self._topics = TopicDirectory(self._cluster, client_id("client"))
        self._producer = make_producer(self._cluster, "client", linger_ms=5)
        try:
            await self._topics.start()
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            await self._topics.stop()
            raise unreachable(self._cluster, error) from None
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        await self._producer.stop()
        await self._readers.stop()
        await self._partial_readers.stop()
        await self._topics.stop()

    async def submit(
        self,
        address: str,
        content: Content,
        *,
        key: bytes | str | None = None,
        request_id: str | None = None,
        guidance: Sequence[str] = (),
        generation: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        timeout_s: float = 300,
        via: str | None = None,
    ) -> Reply:
        """Publish one event and wait for its reply, Completed or Failed.

        address: `/NAMESPACE/ENDPOINT`; `/NAMESPACE/call` leaves the endpoint to the router of that namespace, which is
        the caller's own.
        content: the endpoint's fields, plain text, or a Protobuf message of the type that it declares.
        key: the record's key; text is encoded as UTF-8.
        request_id: names the work. All submissions of one endpoint and id (at the same time, after a time-out, or by
        another process with the same reply topic) take the first reply that arrives after them. Each caller of an
        endpoint needs its own ids.
        generation: parameters that the endpoint lets a request set (`request_generation`), as {"temperature": 0.7}.
        deadline_s: seconds from now, after which the request is refused and not computed.
        via: the caller's own namespace, to call an endpoint of another one: the event goes to the general address of
        `via`, and the reply comes to a topic of `via`. None: the event goes to the endpoint's own topic.

        Raises: Refusal if the event was not published (unknown_endpoint, text_too_long, broker_unreachable);
        TimeoutError if no reply comes within `timeout_s` seconds.
        """
        headers = asked(request_id, guidance, generation, deadline_s)
        published = self._published(address, content, headers, key=key, request_id=request_id, via=via)
        async with published as (answer, _):
            async with asyncio.timeout(timeout_s):
                return await answer

    async def stream(
        self,
        address: str,
        content: Content,
        *,
        key: bytes | str | None = None,
        request_id: str | None = None,
        guidance: Sequence[str] = (),
        generation: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        timeout_s: float = 300,
        via: str | None = None,
    ) -> AsyncGenerator[Partial | Reply]:
        """Publish one event; yields the pieces of its texts while they are made, and last its reply.

        The arguments are those of `submit`. The pieces of a sample, one behind the other, are the text in the reply.
        Where a piece has a higher `attempt` than those before, the request was begun again: forget what came before it.
        Where the reply is Failed, forget all of them.

        Raises: as `submit`; Refusal(invalid_setting) where the reply topic has no topic for pieces beside it.
        """
        headers = [*asked(request_id, guidance, generation, deadline_s), (header.PARTIAL, b"true")]
        published = self._published(address, content, headers, key=key, request_id=request_id, via=via, partial=True)
        async with published as (answer, pieces):
            async for one in streamed(pieces, answer, timeout_s=timeout_s):
                yield one

    async def cancel(self, address: str, request_id: str, *, via: str | None = None) -> None:
        """Cancel the endpoint's request with this id. Returns when the cancellation is published.

        address, via: as in `submit`; `/NAMESPACE/call` cancels it at whatever endpoint the router has sent it to.

        The request's reply is `cancelled`, or its result if that came first. The id stays cancelled for an hour: a
        new submission with it is answered `cancelled` too.
        Raises Refusal: unknown_endpoint, invalid_header for an impossible id, broker_unreachable.
        """
        if not request_id or not is_id(request_id):
            raise Refusal(
                FailureCode.INVALID_HEADER, f"an id has 1 to {MAX_ID_CHARS} printable characters: give another"
            )
        namespace, endpoint = split_address(address)
        topic = await self._event_topic(namespace, endpoint, via)
        headers = [(header.CANCEL, request_id.encode()), *called(namespace, endpoint, via)]
        # With a key: aiokafka refuses a record without key and value.
        await self._publish(topic, request_id.encode(), None, headers)

    def replies(
        self, address: str, *, from_beginning: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Reply]]:
        """`async with client.replies("/team/task") as stream: async for reply in stream:`

        Every reply on the endpoint's own reply topic, to all callers, once for each request id. It is for programs that
        publish by other means. A retryable failure is not final: it may come several times, and others may follow.
        Enter the context before you publish. Raises Refusal: unknown_endpoint, broker_unreachable.
        """
        return replies(self._cluster, reply_topic(*split_address(address)), from_beginning=from_beginning)

    async def _event_topic(self, namespace: str, endpoint: str, via: str | None) -> str:
        if not self._is_open:
            raise not_open("async with Client(...) as client:")
        if via is not None and not NAME.fullmatch(via):
            raise Refusal(FailureCode.INVALID_SETTING, f"via is {via!r}, no namespace: name the caller's own")
        if via is None and endpoint == CALL:
            via = namespace
        topic = event_topic(namespace, endpoint) if via is None else call_topic(via)
        try:
            exists = await self._topics.partitions(topic)
        except KafkaError as error:
            raise unreachable(self._cluster, error) from None
        if not exists and via is not None:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"namespace {via} has no general address, for there is no topic {topic}, or you may not see it: name "
                "your own namespace, or have its topics made (`guideway topics apply`)",
            )
        if not exists:
            raise no_endpoint(endpoint_address(namespace, endpoint), topic, self._topics.topics)
        return topic

    @asynccontextmanager
    async def _published(
        self,
        address: str,
        content: Content,
        headers: Sequence[tuple[str, bytes]],
        *,
        key: bytes | str | None,
        request_id: str | None,
        via: str | None,
        partial: bool = False,
    ) -> AsyncIterator[tuple[asyncio.Future[Reply], asyncio.Queue[Partial]]]:
        """Publish an event on entry; its reply comes, and its pieces if there are any. headers: beside those that every
        event has. Raises Refusal."""
        namespace, endpoint = split_address(address)
        topic = await self._event_topic(namespace, endpoint, via)
        own = reply_topic(namespace, endpoint) if via is None else reply_topic(via, CALL)
        value, content_type = encoded(content)
        partials: PartialReader | None = None
        try:
            replies = await self._readers.of(self._reply_to or own)
            if partial:
                partials = await self._partial_readers.of(partial_topic_beside(replies.topic))
                # It may have ended while the other was started.
                replies = await self._readers.of(replies.topic)
        except KafkaError as error:
            raise unreachable(self._cluster, error) from None
        correlation = uuid.uuid4().hex.encode()
        all_headers = [
            (header.CORRELATION_ID, correlation),
            (header.REPLY_TO, replies.topic.encode()),
            (header.CONTENT_TYPE, content_type.encode()),
            *called(namespace, endpoint, via),
            *headers,
        ]
        work = None if request_id is None else (endpoint_address(namespace, endpoint), request_id)
        answer = replies.expect(correlation, work)
        pieces = asyncio.Queue[Partial]() if partials is None else partials.expect(correlation)
        try:
            await self._publish(topic, key.encode() if isinstance(key, str) else key, value, all_headers)
            yield answer, pieces
        finally:
            if partials is not None:
                partials.drop(correlation)
            answer.cancel()

    async def _publish(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        try:
            await self._producer.send_and_wait(topic, key=key, value=value, headers=headers)
        except MessageSizeTooLargeError:
            raise Refusal(
                FailureCode.TEXT_TOO_LONG,
                f"the event's value has {len(value or b'')} bytes, and with key and headers that is more than a record "
                "may have: shorten it",
            ) from None
        except KafkaError as error:
            raise unreachable(self._cluster, error) from None

    async def _reply_reader(self, topic: str) -> ReplyReader:
        if not (partitions := await self._topics.partitions(topic)):
            raise Refusal(
                FailureCode.REPLY_ADDRESS_REFUSED,
                f"reply topic {topic} does not exist: create it, or name another with reply_to",
            )
        return await begun(ReplyReader(self._cluster, topic), partitions)

    async def _partial_reader(self, topic: str) -> PartialReader:
        if not (partitions := await self._topics.partitions(topic)):
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"there is no topic {topic} for the pieces of texts: apply the endpoint with `partial: true`, or do "
                "not stream",
            )
        return await begun(PartialReader(self._cluster, topic), partitions)


def not_open(how: str) -> Refusal:
    """The refusal for a client that is used before it is entered or after it was left."""
    return Refusal(FailureCode.INVALID_SETTING, f"the client is not open: use it inside `{how}`")


def split_address(address: str) -> tuple[str, str]:
    """`/NAMESPACE/ENDPOINT` → both names. Raises Refusal(unknown_endpoint)."""
    namespace, _, endpoint = address.strip("/").partition("/")
    if not NAME.fullmatch(namespace) or not NAME.fullmatch(endpoint):
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"{address!r} is no address: write /NAMESPACE/ENDPOINT")
    return namespace, endpoint
