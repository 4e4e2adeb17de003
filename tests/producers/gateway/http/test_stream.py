"""What waits for clients of streams is counted, and one that never reads gets no more than its namespace may have."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.replies import reply_records
from guideway.producers.gateway.gateway import GatewaySettings
from guideway.producers.gateway.http.stream import EventStream
from guideway.producers.gateway.openai.answering import AnswerStream, OpenAiRequest
from guideway.producers.gateway.openai.parameters import read_chat
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.reading import Reading
from guideway.producers.gateway.room import Room
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.addresses import GATEWAY
from guideway.schemas.names.topics import partial_topic, reply_topic
from guideway.schemas.output import Text
from guideway.schemas.partial import Partial
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.request import ReplyAddress
from guideway.schemas.services.accepted import Claim
from guideway.schemas.wire import PARTIAL

CHAT = read_chat(b'{"model": "shop/mood", "stream": true, "messages": [{"role": "user", "content": "a"}]}')
ENDPOINT = Endpoint(namespace="shop", name="mood", model_size="small", output=Text())


class Streaming:
    """A request of one namespace whose answer is streamed to a client that reads what it is let to read."""

    def __init__(self, room: Room, *, namespace: str = "shop", openai: bool = False) -> None:
        self.reading = Reading(Cluster("nowhere:1"), room, limit=10)
        self.namespace = namespace
        claim = Claim(id="r", at_ms=0, address="/shop/mood", fingerprint="", correlation="c")
        pending = Pending(self.reading, namespace, claim, self._cancelled)
        pending.expect()
        pending.expect_pieces()
        self.left: list[Pending] = []
        settings = GatewaySettings(cluster=Cluster("nowhere:1"))
        gateway: Any = SimpleNamespace(room=room, settings=settings, abandon=self.left.append)
        self.reads, self.got = asyncio.Event(), bytearray()
        response: Any = EventStream(gateway, pending, 20)
        if openai:
            asking = OpenAiRequest(asked=CHAT, endpoint=ENDPOINT, created_s=1, deadline_ms=None)
            response = AnswerStream(gateway, pending, asking)
        self.task = asyncio.create_task(response({}, self._receive, self._send))

    async def _cancelled(self, _pending: Pending) -> None:
        raise AssertionError("nobody asks for it")

    async def _receive(self) -> Any:
        return await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.got += message.get("body", b"")

    def _came(self, topic: str, value: bytes | None, headers: Any) -> None:
        record = Record(topic=topic, partition=0, offset=0, key=None, value=value, headers=headers, timestamp_ms=0)
        taken = self.reading._take_piece if topic.endswith(".partial.v1") else self.reading._take_reply
        taken(self.namespace, record)

    def tell(self, number: int, text: str) -> None:
        told = Partial(id="r", namespace="shop", endpoint="mood", sample=0, attempt=1, number=number, text=text)
        topic = partial_topic(self.namespace, GATEWAY)
        self._came(topic, PARTIAL.encode(told), [(header.CORRELATION_ID, b"c")])

    def reply(self, text: str) -> None:
        made = Completed(
            id="r",
            namespace="shop",
            endpoint="mood",
            endpoint_version=1,
            samples=[Sample(value=text, text=text, finish_reason="stop")],
            usage=Usage(prompt_tokens=1, output_tokens=1),
            guidance=[],
            model_fingerprint="sha256:" + "0" * 64,
        )
        address = ReplyAddress(topic=reply_topic(self.namespace, GATEWAY))
        asked = Record(
            topic="t",
            partition=0,
            offset=0,
            key=None,
            value=b"",
            headers=[(header.CORRELATION_ID, b"c")],
            timestamp_ms=0,
        )
        (out,) = reply_records(made, [address], asked)
        self._came(out.topic, out.value, list(out.headers))


@pytest.mark.parametrize("openai", [False, True])
async def test_a_client_that_never_reads_holds_no_more_than_its_namespace_may(openai: bool) -> None:
    room = Room(most=10, most_of_one=10, most_bytes=300_000, most_bytes_of_one=100_000)
    unread = Streaming(room, openai=openai)
    await asyncio.sleep(0)
    for number in range(2000):
        unread.tell(number, "word " * 10)
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert 40_000 < room._held_bytes <= 50_000
    unread.reply("word " * 40_000)
    for _ in range(10):
        await asyncio.sleep(0)
    # Another namespace has its answer meanwhile.
    other = Streaming(room, namespace="other", openai=openai)
    other.reads.set()
    other.reply("word " * 1000)
    await other.task
    assert b"word word" in other.got
    assert 40_000 < room._held_bytes <= 50_000
    # And whoever reads at last is told that it was too much.
    unread.reads.set()
    await unread.task
    assert b"too_many_requests" in unread.got
    assert room._held_bytes == 0
    assert unread.left == []


@pytest.mark.parametrize("openai", [False, True])
async def test_a_client_that_leaves_gives_back_what_is_held(openai: bool) -> None:
    room = Room(most=10, most_of_one=10, most_bytes=300_000, most_bytes_of_one=100_000)
    unread = Streaming(room, openai=openai)
    await asyncio.sleep(0)
    for number in range(20):
        unread.tell(number, "word " * 10)
    await asyncio.sleep(0)
    assert room._held_bytes
    unread.task.cancel()
    await asyncio.gather(unread.task, return_exceptions=True)
    assert room._held_bytes == 0
    assert len(unread.left) == 1


async def test_what_found_no_room_comes_with_the_reply() -> None:
    room = Room(most=10, most_of_one=10, most_bytes=300_000, most_bytes_of_one=100_000)
    slow, text = Streaming(room), "".join(f"{number} " for number in range(500))
    await asyncio.sleep(0)
    for number in range(500):
        slow.tell(number, f"{number} ")
    await asyncio.sleep(0)
    slow.reply(text)
    slow.reads.set()
    await slow.task
    told = [PARTIAL.decode(line[6:]).text for line in bytes(slow.got).splitlines() if b"guideway.partial" in line]
    assert "".join(told) == text
    assert len(told) < 400
    assert b"event: completed" in slow.got
    assert room._held_bytes == 0
