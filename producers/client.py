"""The client library: submit events, await replies, many in flight.

async with Client("localhost:9092") as client:
    reply = await client.submit("/public/round", {"text": "Is the Earth round?"})
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients import make_consumer, make_producer, unreachable
from guideway.delivery.topic_directory import TopicDirectory
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Reply
from guideway.schemas.wire import REPLY, Undecodable


class _ReplyReader:
    """Reads one reply topic from its present end on and hands each reply to whoever waits for it, once."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._bootstrap = bootstrap
        self._consumer = make_consumer(bootstrap, "client")
        self._waiting: dict[bytes, asyncio.Future[Reply]] = {}

    async def start(self, partitions: int) -> None:
        await self._consumer.start()
        self._consumer.assign([TopicPartition(self.topic, number) for number in range(partitions)])
        await self._consumer.seek_to_end()
        # Known before anything is sent: a position that is looked up later could lie behind the reply.
        for tp in self._consumer.assignment():
            await self._consumer.position(tp)
        self._reading = asyncio.create_task(self._read(), name=f"replies of {self.topic}")

    async def stop(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        await self._consumer.stop()

    async def abandon(self) -> None:
        """Stop what `start` could not finish."""
        await self._consumer.stop()

    def expect(self, correlation: bytes) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = future
        future.add_done_callback(lambda _: self._waiting.pop(correlation, None))
        return future

    async def _read(self) -> None:
        try:
            await self._hand_out()
        except KafkaError as error:
            # Nobody reads on: whoever waits is told, and the next submission makes a new reader.
            for future in [*self._waiting.values()]:
                if not future.done():
                    future.set_exception(unreachable(self._bootstrap, error))

    @property
    def ended(self) -> bool:
        return self._reading.done()

    async def _hand_out(self) -> None:
        async for record in self._consumer:
            correlation = next((value for name, value in record.headers if name == names.CORRELATION_ID), None)
            future = self._waiting.get(correlation or b"")
            # A repeat, or somebody else's: this topic may be shared.
            if future is None or future.done():
                continue
            try:
                future.set_result(REPLY.decode(record.value))
            except Undecodable as error:
                future.set_exception(Refusal(FailureCode.INTERNAL_ERROR, f"the reply is not of this version: {error}"))


class Client:
    """Publishes events as an idempotent producer and reads committed replies. One per process is enough."""

    def __init__(self, bootstrap: str, *, reply_to: str | None = None) -> None:
        """`reply_to`: a reply topic of the namespace, for all endpoints; default: each endpoint's own."""
        self._bootstrap = bootstrap
        self._reply_to = reply_to
        self._readers: dict[str, asyncio.Task[_ReplyReader]] = {}
        self._topics = TopicDirectory(bootstrap, names.client_id("client"))

    async def __aenter__(self) -> Client:
        self._producer = make_producer(self._bootstrap, "client", linger_ms=5)
        try:
            await self._topics.start()
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            await self._topics.stop()
            raise unreachable(self._bootstrap, error) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        key: bytes | None = None,
        request_id: str | None = None,
        guidance: Sequence[str] = (),
        deadline_s: float | None = None,
        timeout_s: float = 300,
    ) -> Reply:
        """Publish one event and wait for its reply, Completed or Failed.

        `content` are the endpoint's fields, or plain text. `request_id` makes a repeated submission recognisable.
        `deadline_s` from now, the request is answered instead of computed. Raises Refusal for what never left here
        (unknown_endpoint, text_too_long, broker_unreachable) and TimeoutError when no reply comes within `timeout_s`.
        """
        namespace, endpoint = split_address(address)
        topic = names.event_topic(namespace, endpoint)
        try:
            exists = await self._topics.partitions(topic)
            reader = await self._reader(self._reply_to or names.reply_topic(namespace, endpoint)) if exists else None
        except KafkaError as error:
            raise unreachable(self._bootstrap, error) from None
        if reader is None:
            raise Refusal(
                FailureCode.UNKNOWN_ENDPOINT,
                f"there is no endpoint {address} (no topic {topic}): `guideway get endpoints` lists what there is",
            )
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
            headers.append((names.DEADLINE, str(int((time.time() + deadline_s) * 1000)).encode()))
        value = content.encode() if isinstance(content, str) else msgspec.json.encode(content)
        answer = reader.expect(correlation)
        try:
            await self._producer.send_and_wait(topic, key=key, value=value, headers=headers)
            return await asyncio.wait_for(answer, timeout_s)
        except MessageSizeTooLargeError:
            raise Refusal(FailureCode.TEXT_TOO_LONG, f"the event has {len(value)} bytes: shorten it") from None
        except KafkaError as error:
            raise unreachable(self._bootstrap, error) from None
        finally:
            answer.cancel()

    async def _reader(self, topic: str) -> _ReplyReader:
        starting = self._readers.get(topic)
        if starting is None or (starting.done() and (starting.exception() or starting.result().ended)):
            starting = self._readers[topic] = asyncio.create_task(self._start_reader(topic))
        return await asyncio.shield(starting)

    async def _start_reader(self, topic: str) -> _ReplyReader:
        partitions = await self._topics.partitions(topic)
        if not partitions:
            raise Refusal(FailureCode.REPLY_ADDRESS_REFUSED, f"reply topic {topic} does not exist: create it")
        reader = _ReplyReader(self._bootstrap, topic)
        try:
            await reader.start(partitions)
        except BaseException:
            await reader.abandon()
            raise
        return reader


def split_address(address: str) -> tuple[str, str]:
    """`/NAMESPACE/ENDPOINT` → both names. Raises Refusal(unknown_endpoint)."""
    namespace, _, endpoint = address.strip("/").partition("/")
    if not names.NAME.fullmatch(namespace) or not names.NAME.fullmatch(endpoint):
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"{address!r} is no address: write /NAMESPACE/ENDPOINT")
    return namespace, endpoint
