"""Endpoints for programs that are made with FastStream: one publishes to them, and awaits their replies.

from faststream.kafka import KafkaBroker
from guideway.faststream import Endpoint, parser

broker = KafkaBroker("localhost:9092", parser=parser)
mood = Endpoint(broker, "/shop/mood")

@broker.subscriber("reviews", group_id="shop.complaints")
async def read(text: str) -> None:
    reply = await mood(text)

Needs the extra `faststream`. docs/faststream.md says more.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from faststream.kafka import KafkaBroker, KafkaMessage

from guideway.producers.client.client import split_address
from guideway.producers.client.event_headers import asked, called
from guideway.schemas.failures import Refusal
from guideway.schemas.names import header
from guideway.schemas.names.addresses import CALL, endpoint_address
from guideway.schemas.names.topics import call_topic, event_topic, reply_topic
from guideway.schemas.reply import Completed, Failed, Reply, Sample, Usage
from guideway.schemas.wire import REPLY

Content = Mapping[str, Any] | str


async def parser(message: ConsumerRecord, original: Callable[[ConsumerRecord], Any]) -> Any:
    """For `KafkaBroker(parser=…)` and `broker.subscriber(parser=…)`: records with any headers become messages.

    FastStream's own parser raises for a header that is null or no UTF-8, as Spring's are, and the record is lost. Here
    null headers are left out, and bytes that are no UTF-8 are escaped (`\\\\xff`); `message.raw_message` has them as
    they came.
    """
    text = [(name, _text(value)) for name, value in message.headers if value is not None]
    parsed = await original(replace(message, headers=text))
    parsed.raw_message = message
    return parsed


class Endpoint:
    """An endpoint that a FastStream program calls. Owner of the calls that wait for their replies."""

    def __init__(
        self,
        broker: KafkaBroker,
        address: str,
        *,
        reply_to: str | None = None,
        via: str | None = None,
        timeout_s: float = 300,
    ) -> None:
        """Make it before the broker starts: it subscribes to the reply topic.

        address: `/NAMESPACE/ENDPOINT`. reply_to: a reply topic of the caller's namespace; None: the endpoint's own.
        It has to be there, for FastStream waits long for a topic that is not. via: the caller's namespace, to call an
        endpoint of another one. timeout_s: how long a call waits for its reply.
        Raises: Refusal(unknown_endpoint) for what is no address.
        """
        self._broker, self._timeout_s, self._via = broker, timeout_s, via
        self._namespace, self._name = split_address(address)
        self.topic = event_topic(self._namespace, self._name) if via is None else call_topic(via)
        own = reply_topic(self._namespace, self._name) if via is None else reply_topic(via, CALL)
        self.reply_topic = reply_to or own
        self._waiting: dict[bytes, asyncio.Future[Reply]] = {}
        self._is_ready = False
        # Without a group: each process reads all replies, and takes its own.
        self._subscriber = broker.subscriber(
            self.reply_topic,
            auto_offset_reset="latest",
            isolation_level="read_committed",
            parser=parser,
            decoder=_as_record,
            no_reply=True,
            include_in_schema=False,
        )
        self._subscriber(self._take)

    @property
    def address(self) -> str:
        """`/NAMESPACE/ENDPOINT`."""
        return endpoint_address(self._namespace, self._name)

    async def __call__(
        self,
        content: Content,
        *,
        key: bytes | str | None = None,
        request_id: str | None = None,
        guidance: Sequence[str] = (),
        generation: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
    ) -> Reply:
        """Publish one event and wait for its reply, Completed or Failed; `reply.value` raises Refusal where it failed.

        The arguments are those of `Client.submit`. Raises: TimeoutError where no reply comes in time; what publishing
        raises.
        """
        await self._ready()
        correlation = uuid.uuid4().hex
        is_text = isinstance(content, str)
        headers = asked(request_id, guidance, generation, deadline_s)
        headers += called(self._namespace, self._name, self._via)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation.encode()] = answer
        try:
            await self._broker.publish(
                content if isinstance(content, str) else msgspec.json.encode(content),
                self.topic,
                key=key.encode() if isinstance(key, str) else key,
                headers={
                    **{name: value.decode() for name, value in headers},
                    header.CONTENT_TYPE: "text/plain" if is_text else "application/json",
                },
                correlation_id=correlation,
                reply_to=self.reply_topic,
            )
            async with asyncio.timeout(self._timeout_s):
                return await answer
        finally:
            del self._waiting[correlation.encode()]

    async def _ready(self) -> None:
        """Where the reply topic ends is known before anything is sent: each reply lies behind it."""
        consumer = self._subscriber.consumer
        if not self._is_ready and isinstance(consumer, AIOKafkaConsumer):
            for partition in consumer.assignment():
                async with asyncio.timeout(self._timeout_s):
                    await consumer.position(partition)
            self._is_ready = True

    async def _take(self, record: Any) -> None:
        correlation = next((value for name, value in record.headers if name == header.CORRELATION_ID), None)
        answer = self._waiting.get(correlation or b"")
        if answer is not None and not answer.done():
            try:
                answer.set_result(REPLY.decode(record.value))
            except ValueError as error:
                answer.set_exception(error)


def stand_in(endpoint: Endpoint, answer: Callable[[Any], Any]) -> KafkaBroker:
    """For tests without Kafka: a broker whose subscriber answers the endpoint's events with `answer(content)`.

    async with TestKafkaBroker(broker, stand_in(mood, lambda text: "bad")):
        await broker.publish("Cold soup.", "reviews")

    content: text, or fields where the event was JSON. What it returns is the value of a completed reply; a Refusal that
    it raises is that of a failed one.
    """
    broker = KafkaBroker(parser=parser)

    @broker.subscriber(endpoint.topic, no_reply=True, decoder=_as_record)
    async def answered(record: Any) -> None:
        headers = dict(record.headers)
        is_json = headers.get(header.CONTENT_TYPE) == b"application/json"
        content = msgspec.json.decode(record.value) if is_json else record.value.decode()
        namespace, name = split_address(endpoint.address)
        id_ = headers.get(header.REQUEST_ID, b"stand-in").decode()
        reply: Reply
        try:
            value = answer(content)
            reply = Completed(
                id=id_,
                namespace=namespace,
                endpoint=name,
                endpoint_version=1,
                samples=[Sample(value=value, text=str(value), finish_reason="stop")],
                usage=Usage(prompt_tokens=0, output_tokens=0),
                guidance=[],
                model_fingerprint="",
            )
        except Refusal as refusal:
            reply = Failed(
                id=id_,
                namespace=namespace,
                endpoint=name,
                code=refusal.code,
                message=refusal.message,
                retryable=refusal.code.retryable,
            )
        correlation = headers.get(header.CORRELATION_ID, b"").decode()
        to = headers.get(header.REPLY_TO, endpoint.reply_topic.encode()).decode()
        await broker.publish(REPLY.encode(reply), to, key=record.key or None, correlation_id=correlation)

    return broker


def _text(value: bytes) -> bytes:
    return value.decode("utf-8", "backslashreplace").encode()


async def _as_record(message: KafkaMessage) -> Any:
    return message.raw_message
