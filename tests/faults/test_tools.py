"""The proxy of the fault tests without Kafka: what it decides, and what passes through it to a broker made up here."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.protocol.api import RequestHeader_v1, RequestHeader_v2
from aiokafka.protocol.commit import (
    OffsetFetchRequest_v3,
    OffsetFetchResponse_v1,
    OffsetFetchResponse_v2,
    OffsetFetchResponse_v3,
)
from tests.faults.kafka.cluster import steady_ports
from tests.faults.kafka.frames import (
    Api,
    Delay,
    Drop,
    FrameReader,
    Header,
    Rule,
    Rules,
    correlation_id,
    framed,
    offset_fetch_empty,
    offset_fetch_error,
    request_header,
)
from tests.faults.kafka.proxy import KafkaProxy

from guideway.infra.processes import HOST


def test_frames_are_found_however_their_bytes_come() -> None:
    stream = framed(b"first") + framed(b"second") + framed(b"third")
    for step in range(1, len(stream) + 1):
        reader = FrameReader()
        chunks = [stream[i : i + step] for i in range(0, len(stream), step)]
        assert [frame for chunk in chunks for frame in reader.feed(chunk)] == [b"first", b"second", b"third"]


@pytest.mark.parametrize("length", [-1, 3, 2**31 - 1])
def test_what_is_no_frame_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes"):
        FrameReader().feed(struct.pack(">i", length))


@pytest.mark.parametrize("kind", [RequestHeader_v1, RequestHeader_v2])
def test_headers_are_read_as_aiokafka_writes_them(kind: Any) -> None:
    request = OffsetFetchRequest_v3("group", [("topic", [0])])
    frame = kind(request, correlation_id=7, client_id="guideway-wörker").encode() + request.encode()
    assert request_header(frame) == Header(Api.OFFSET_FETCH, 3, 7, "guideway-wörker")
    assert correlation_id(frame[4:]) == 7
    with pytest.raises(ValueError, match="header"):
        request_header(frame[:9])


def test_a_client_without_an_id_has_an_empty_one() -> None:
    assert request_header(struct.pack(">hhih", 3, 1, 9, -1)) == Header(Api.METADATA, 1, 9, "")


END = Header(Api.END_TXN, 0, 1, "guideway-worker-11")


@pytest.mark.parametrize(
    ("rule", "meets"),
    [
        (Rule(Drop(), "request", Api.END_TXN), True),
        (Rule(Drop(), "request", None), True),
        (Rule(Drop(), "request", Api.PRODUCE), False),
        (Rule(Drop(), "response", Api.END_TXN), False),
        (Rule(Drop(), "request", Api.END_TXN, client="guideway-worker"), True),
        (Rule(Drop(), "request", Api.END_TXN, client="guideway-endpoints"), False),
        (Rule(Drop(), "request", Api.END_TXN, brokers={2, 3}), True),
        (Rule(Drop(), "request", Api.END_TXN, brokers={1}), False),
        (Rule(Drop(), "request", Api.END_TXN, share=0.0), False),
    ],
)
def test_a_rule_meets_what_it_is_about(rule: Rule, meets: bool) -> None:
    rules = Rules()
    rules.add(rule)
    assert (rules.choose(END, 2, "request") is rule) is meets
    assert rule.hits == meets


def test_the_latest_rule_acts_until_it_is_spent_or_removed() -> None:
    rules = Rules()
    general = rules.add(Rule(Delay(1.0), "request", None))
    twice = rules.add(Rule(Drop(), "request", Api.END_TXN, count=2))
    assert [rules.choose(END, 1, "request") for _ in range(3)] == [twice, twice, general]
    rules.remove(general)
    rules.remove(general)
    assert rules.choose(END, 1, "request") is None
    assert (general.hits, twice.hits) == (1, 2)


def test_a_share_is_drawn_by_the_seed() -> None:
    def drawn(seed: int) -> list[bool]:
        rules = Rules(seed)
        rules.add(Rule(Drop(), "request", None, share=0.3))
        return [rules.choose(END, 1, "request") is not None for _ in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 250 < sum(drawn(1)) < 350


@pytest.mark.parametrize("code", [14, 15, 16, 30])
def test_offset_fetch_errors_are_those_that_a_broker_gives(code: int) -> None:
    topics = [("topic", [(0, 5, "metadata", 0), (1, 6, "", 0)])]

    def edited(version: int, answer: Any) -> Any:
        body = offset_fetch_error(code)(Header(Api.OFFSET_FETCH, version, 1, ""), answer.encode())
        return type(answer).decode(io.BytesIO(body))

    assert edited(1, OffsetFetchResponse_v1(topics)).topics == [("topic", [(0, -1, "", code), (1, -1, "", code)])]
    assert edited(2, OffsetFetchResponse_v2(topics, 0)) == OffsetFetchResponse_v2([], code)
    assert edited(3, OffsetFetchResponse_v3(9, topics, 0)) == OffsetFetchResponse_v3(9, [], code)
    empty = offset_fetch_empty(Header(Api.OFFSET_FETCH, 3, 1, ""), OffsetFetchResponse_v3(9, topics, 0).encode())
    assert OffsetFetchResponse_v3.decode(empty) == OffsetFetchResponse_v3(9, [], 0)


class Broker:
    """Answers each request in order with its own body, but for Produce, which it takes for acks=0."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        while chunk := await reader.read(2**16):
            for frame in frames.feed(chunk):
                header = request_header(frame)
                self.seen.append(header.correlation)
                if header.api != Api.PRODUCE:
                    writer.write(framed(struct.pack(">i", header.correlation) + b"done"))
        writer.close()


class Caller:
    """A client that counts its requests from 1."""

    def __init__(self, port: int, client: str) -> None:
        self.port, self.client, self.correlation = port, client.encode(), 0

    async def __aenter__(self) -> Caller:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, api: Api) -> None:
        self.correlation += 1
        self.writer.write(framed(struct.pack(">hhih", api, 0, self.correlation, len(self.client)) + self.client))

    async def answer(self) -> tuple[int, bytes]:
        """The next answer. Raises IncompleteReadError when the connection breaks before it."""
        (length,) = struct.unpack(">i", await self.reader.readexactly(4))
        frame = await self.reader.readexactly(length)
        return correlation_id(frame), frame[4:]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[KafkaProxy]:
    ours, theirs = steady_ports(2)
    async with await asyncio.start_server(broker.serve, HOST, theirs), KafkaProxy({1: ours}, {1: theirs}) as proxy:
        yield proxy


@pytest.fixture
async def caller(proxy: KafkaProxy) -> AsyncIterator[Caller]:
    async with Caller(proxy.ports[1], "caller-1") as caller:
        yield caller


async def test_without_a_rule_all_passes_in_order(caller: Caller) -> None:
    for api in (Api.METADATA, Api.PRODUCE, Api.FETCH, Api.PRODUCE, Api.HEARTBEAT):
        caller.send(api)
    assert [await caller.answer() for _ in range(3)] == [(1, b"done"), (3, b"done"), (5, b"done")]


@pytest.mark.parametrize(("overtaken", "seen"), [(False, [1, 2, 3]), (True, [2, 3, 1])])
async def test_a_held_request_is_waited_for_or_overtaken(
    proxy: KafkaProxy, broker: Broker, caller: Caller, overtaken: bool, seen: list[int]
) -> None:
    rule = proxy.delay(Api.END_TXN, 0.2, overtaken=overtaken)
    for api in (Api.END_TXN, Api.METADATA, Api.FETCH):
        caller.send(api)
    assert [(await caller.answer())[0] for _ in range(3)] == [1, 2, 3]
    assert broker.seen == seen
    assert rule.hits == 1


async def test_held_answers_wait_side_by_side(proxy: KafkaProxy, caller: Caller) -> None:
    proxy.delay(None, 0.3, on="response", client="caller")
    began = asyncio.get_running_loop().time()
    for _ in range(20):
        caller.send(Api.METADATA)
    assert [(await caller.answer())[0] for _ in range(20)] == list(range(1, 21))
    assert 0.3 <= asyncio.get_running_loop().time() - began < 3.0


@pytest.mark.parametrize(("on", "seen"), [("request", [1]), ("response", [1, 2])])
async def test_a_dropped_frame_takes_its_connection_along(
    proxy: KafkaProxy, broker: Broker, caller: Caller, on: Any, seen: list[int]
) -> None:
    proxy.drop(Api.END_TXN, on=on)
    caller.send(Api.METADATA)
    assert await caller.answer() == (1, b"done")
    caller.send(Api.END_TXN)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await caller.answer()
    assert broker.seen == seen


async def test_a_late_request_outlives_its_connection(proxy: KafkaProxy, broker: Broker, caller: Caller) -> None:
    rule = proxy.deliver_late(Api.END_TXN, 0.1)
    caller.send(Api.END_TXN)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await caller.answer()
    assert broker.seen == []
    await proxy.settled()
    assert broker.seen == [1]
    assert [(correlation_id(answer), rule.undelivered) for answer in rule.answers] == [(1, 0)]


async def test_a_duplicate_is_answered_once(proxy: KafkaProxy, broker: Broker, caller: Caller) -> None:
    rule = proxy.duplicate(Api.END_TXN)
    caller.send(Api.END_TXN)
    caller.send(Api.METADATA)
    assert [await caller.answer() for _ in range(2)] == [(1, b"done"), (2, b"done")]
    await proxy.settled()
    assert sorted(broker.seen) == [1, 1, 2]
    assert [(correlation_id(answer), rule.undelivered) for answer in rule.answers] == [(1, 0)]


async def test_an_answer_is_rewritten(proxy: KafkaProxy, caller: Caller) -> None:
    proxy.answer(Api.METADATA, lambda header, body: body + str(header.api).encode(), count=1)
    for _ in range(2):
        caller.send(Api.METADATA)
    assert [await caller.answer() for _ in range(2)] == [(1, b"done3"), (2, b"done")]


async def test_a_partition_freezes_whom_it_is_about(proxy: KafkaProxy, broker: Broker, caller: Caller) -> None:
    caller.send(Api.METADATA)
    assert await caller.answer() == (1, b"done")
    proxy.partition(client="caller-1", brokers={1})
    caller.send(Api.END_TXN)
    async with Caller(proxy.ports[1], "caller-1") as late, Caller(proxy.ports[1], "other") as other:
        late.send(Api.FETCH)
        other.send(Api.METADATA)
        assert await other.answer() == (1, b"done")
    # Gone before it heals, and delivered all the same.
    assert broker.seen == [1, 1]
    proxy.heal()
    assert await caller.answer() == (2, b"done")
    async with asyncio.timeout(5):
        while sorted(broker.seen) != [1, 1, 1, 2]:
            await asyncio.sleep(0.01)


async def test_a_broker_that_is_gone_closes_the_connection() -> None:
    ours, nobody = steady_ports(2)
    async with KafkaProxy({1: ours}, {1: nobody}), Caller(ours, "caller") as caller:
        caller.send(Api.METADATA)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.answer()


async def test_a_failure_of_the_proxy_is_not_kept_quiet() -> None:
    async def speak_something_else() -> None:
        (port,) = steady_ports(1)
        async with KafkaProxy({1: port}, {}), Caller(port, "caller") as caller:
            caller.writer.write(struct.pack(">i", -5))
            assert await caller.reader.read() == b""

    with pytest.raises(ExceptionGroup, match="the proxy failed"):
        await speak_something_else()
