"""The client library: submit events, await replies, many in flight.

async with Client("localhost:9092") as client:
    reply = await client.submit("/public/round", {"text": "Is the Earth round?"})
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from guideway.delivery.clients.kafka_client import make_producer, unreachable
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.producers.client.reply_reader import ReplyReader, no_endpoint, replies
from guideway.producers.events.envelope import MAX_ID_CHARS, is_id
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Reply

MAX_DEADLINE_S: Final = 1e9
"""The longest deadline that `Client.submit` takes, in seconds from now."""


class Client:
    """Publishes events as an idempotent producer and reads committed replies. One per process is enough."""

    def __init__(self, bootstrap: str, *, reply_to: str | None = None) -> None:
        """reply_to: a reply topic of the namespace for all endpoints; None: each endpoint's own."""
        self._bootstrap = bootstrap
        self._reply_to = reply_to
        self._readers: dict[str, asyncio.Task[ReplyReader]] = {}
        self._is_open = False

    async def __aenter__(self) -> Client:
        # A Kafka client belongs to the event loop in which it is made.
        self._topics = TopicDirectory(self._bootstrap, names.client_id("client"))
        self._producer = make_producer(self._bootstrap, "client", linger_ms=5)
        try:
            await self._topics.start()
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            await self._topics.stop()
            raise unreachable(self._bootstrap, error) from None
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        await self._producer.stop()
        for starting in self._readers.values():
            with contextlib.suppress(Exception):
                await (await starting).stop()
        await self._topics.stop()

    async def submit(
        self,
        address: str,
        content: Mapping[str, Any] | str,
        *,
        key: bytes | str | None = None,
        request_id: str | None = None,
        guidance: Sequence[str] = (),
        deadline_s: float | None = None,
        timeout_s: float = 300,
    ) -> Reply:
        """Publish one event and wait for its reply, Completed or Failed.

        content: the endpoint's fields, or plain text. key: the record's key; text is encoded as UTF-8.
        request_id: names the work. All submissions of one endpoint and id (at the same time, after a time-out, or by
        another process with the same reply topic) take the first reply that arrives after them. Each caller of an
        endpoint needs its own ids.
        deadline_s: seconds from now, after which the request is refused and not computed.

        Raises: Refusal if the event was not published (unknown_endpoint, text_too_long, broker_unreachable);
        TimeoutError if no reply comes within `timeout_s` seconds.
        """
        namespace, endpoint = split_address(address)
        topic = await self._event_topic(namespace, endpoint)
        try:
            reader = await self._reader(self._reply_to or names.reply_topic(namespace, endpoint))
        except KafkaError as error:
            raise unreachable(self._bootstrap, error) from None
        correlation = uuid.uuid4().hex.encode()
        is_text = isinstance(content, str)
        headers = [
            (names.CORRELATION_ID, correlation),
            (names.REPLY_TO, reader.topic.encode()),
            (names.CONTENT_TYPE, b"text/plain" if is_text else b"application/json"),
        ]
        if request_id is not None:
            headers.append((names.REQUEST_ID, request_id.encode()))
        if guidance:
            headers.append((names.GUIDANCE, ",".join(guidance).encode()))
        if deadline_s is not None:
            headers.append((names.DEADLINE, _deadline(deadline_s)))
        value = content.encode() if isinstance(content, str) else msgspec.json.encode(content)
        work = None if request_id is None else (names.address(namespace, endpoint), request_id)
        answer = reader.expect(correlation, work)
        try:
            await self._publish(topic, key.encode() if isinstance(key, str) else key, value, headers)
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            answer.cancel()

    async def cancel(self, address: str, request_id: str) -> None:
        """Cancel the endpoint's request with this id. Returns when the cancellation is published.

        The request's reply is `cancelled`, or its result if that came first. The id stays cancelled for an hour: a
        new submission with it is answered `cancelled` too.
        Raises Refusal: unknown_endpoint, invalid_header for an impossible id, broker_unreachable.
        """
        if not request_id or not is_id(request_id):
            raise Refusal(
                FailureCode.INVALID_HEADER, f"an id has 1 to {MAX_ID_CHARS} printable characters: give another"
            )
        topic = await self._event_topic(*split_address(address))
        # With a key: aiokafka refuses a record without key and value.
        await self._publish(topic, request_id.encode(), None, [(names.CANCEL, request_id.encode())])

    def replies(
        self, address: str, *, from_beginning: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Reply]]:
        """`async with client.replies("/team/task") as stream: async for reply in stream:`

        Every reply on the endpoint's own reply topic, to all callers, once for each request id. It is for programs that
        publish by other means. A retryable failure is not final: it may come several times, and others may follow.
        Enter the context before you publish. Raises Refusal: unknown_endpoint, broker_unreachable.
        """
        return replies(self._bootstrap, names.reply_topic(*split_address(address)), from_beginning=from_beginning)

    async def _event_topic(self, namespace: str, endpoint: str) -> str:
        if not self._is_open:
            raise not_open("async with Client(...) as client:")
        topic = names.event_topic(namespace, endpoint)
        try:
            exists = await self._topics.partitions(topic)
        except KafkaError as error:
            raise unreachable(self._bootstrap, error) from None
        if not exists:
            raise no_endpoint(names.address(namespace, endpoint), topic, self._topics.topics)
        return topic

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
            raise unreachable(self._bootstrap, error) from None

    async def _reader(self, topic: str) -> ReplyReader:
        starting = self._readers.get(topic)
        if starting is None or (starting.done() and (starting.exception() or starting.result().ended)):
            starting = self._readers[topic] = asyncio.create_task(self._start_reader(topic))
        return await asyncio.shield(starting)

    async def _start_reader(self, topic: str) -> ReplyReader:
        partitions = await self._topics.partitions(topic)
        if not partitions:
            raise Refusal(
                FailureCode.REPLY_ADDRESS_REFUSED,
                f"reply topic {topic} does not exist: create it, or name another with reply_to",
            )
        reader = ReplyReader(self._bootstrap, topic)
        try:
            await reader.start(partitions)
        except BaseException:
            await reader.abandon()
            raise
        return reader


def _deadline(from_now_s: float) -> bytes:
    """The deadline's header: milliseconds since 1970. Raises Refusal(invalid_header) beyond `MAX_DEADLINE_S`."""
    if not abs(from_now_s) <= MAX_DEADLINE_S:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"deadline_s is {from_now_s}: give seconds from now, at most {MAX_DEADLINE_S:.0f}",
        )
    return str(int((time.time() + from_now_s) * 1000)).encode()


def not_open(how: str) -> Refusal:
    """The refusal for a client that is used before it is entered or after it was left."""
    return Refusal(FailureCode.INVALID_SETTING, f"the client is not open: use it inside `{how}`")


def split_address(address: str) -> tuple[str, str]:
    """`/NAMESPACE/ENDPOINT` → both names. Raises Refusal(unknown_endpoint)."""
    namespace, _, endpoint = address.strip("/").partition("/")
    if not names.NAME.fullmatch(namespace) or not names.NAME.fullmatch(endpoint):
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"{address!r} is no address: write /NAMESPACE/ENDPOINT")
    return namespace, endpoint
