"""Pieces of texts from an engine without a model to a caller: over both hops, and where something is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from tests.conftest import ONE_OF_KINDS
from tests.workers.end_to_end import EndToEnd, end_to_end_of

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.local_broker import RunningBroker
from guideway.producers.client.partial_reader import PartialReader
from guideway.producers.client.readers import Readers
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.topics import event_topic, partial_topic, reply_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.partial import Partial, Streamed
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import ReplyAddress, Request
from guideway.schemas.wire import PARTIAL, REPLY, REQUEST
from guideway.workers.partials import MOST_TOPIC_BYTES, PartialPublisher, Telling


@pytest.fixture(params=ONE_OF_KINDS)
async def told(
    request: pytest.FixtureRequest,
    broker_of_kind: Callable[[str], RunningBroker],
    unique_name: str,
    tmp_path: Path,
) -> AsyncIterator[EndToEnd]:
    broker = broker_of_kind(request.param)
    partial = Endpoint(
        namespace=unique_name, name="told", model_size=unique_name, output=Text(), partial=True, partitions=3
    )
    async with end_to_end_of(broker.cluster, unique_name, tmp_path, more=[partial]) as made:
        yield made


async def streamed(made: EndToEnd, text: str, **options: Any) -> tuple[list[Partial], Reply]:
    *pieces, reply = [one async for one in made.client.stream(f"/{made.name}/told", text, timeout_s=60, **options)]
    assert isinstance(reply, Completed | Failed)
    return [piece for piece in pieces if isinstance(piece, Partial)], reply


async def test_pieces_come_before_the_reply_which_counts_them_also_where_the_engine_dies(
    told: EndToEnd, tmp_path: Path
) -> None:
    async with told.worker():
        pieces, reply = await streamed(told, "tell The Earth is round", key="k")
        assert isinstance(reply, Completed)
        assert "".join(piece.text for piece in pieces) == reply.value == "The Earth is round "
        assert [piece.number for piece in pieces] == [*range(len(pieces))]
        assert reply.partials == Streamed(attempt=reply.partials.attempt if reply.partials else 0, pieces=[4])

        # The engine dies after two words, and tells others in the next attempt.
        again, second = await streamed(told, f"tell {tmp_path / 'died'}: one two three")
        assert isinstance(second, Completed)
        last = max(piece.attempt for piece in again)
        assert "".join(piece.text for piece in again if piece.attempt == last) == second.value == "one two three "
        begun = [piece.text for piece in again if piece.attempt != last]
        assert begun == ["begun-one ", "begun-two "][: len(begun)]
        assert second.partials == Streamed(attempt=last, pieces=[3])

        # Not asked for: none, and the reply says nothing of them.
        quiet = await told.client.submit(f"/{told.name}/told", "tell nothing", timeout_s=60)
        assert isinstance(quiet, Completed)
        assert quiet.partials is None

    topic = partial_topic(told.name, "told")
    records = [record for number in range(3) for record in await told.records(topic, number)]
    assert {PARTIAL.decode(record.value).id for record in records} == {reply.id, second.id}
    of_first = [record for record in records if PARTIAL.decode(record.value).id == reply.id]
    assert len({record.partition for record in of_first}) == 1
    assert {record.key for record in of_first} == {b"k"}
    assert all(record.header(header.CORRELATION_ID) for record in records)
    assert len({record.partition for record in records if record.key is None}) == 1


async def test_replies_are_read_though_their_reader_ends_while_that_of_the_pieces_begins(told: EndToEnd) -> None:
    """Nobody would have read the reply: the stream waited for its time-out."""
    client = told.client

    async def meanwhile(topic: str) -> PartialReader:
        await (await client._readers.of(reply_topic(told.name, "told"))).stop()
        return await client._partial_reader(topic)

    client._partial_readers = Readers(meanwhile)
    async with told.worker():
        pieces, reply = await streamed(told, "tell one two")
    assert isinstance(reply, Completed)
    assert "".join(piece.text for piece in pieces) == reply.value == "one two "


async def test_what_cannot_be_told_piece_by_piece_is_refused_and_a_forged_request_changes_nothing(
    told: EndToEnd, make_request: Callable[..., Request]
) -> None:
    with pytest.raises(Refusal, match=r"task\.partial\.v1.*partial: true") as caught:
        async for _ in told.client.stream(told.address, "hello"):
            pass
    assert caught.value.code is FailureCode.INVALID_SETTING
    producer = make_producer(told.cluster, "test")
    events = [
        ("task", [(header.PARTIAL, b"true")], "does not exist"),
        ("told", [(header.PARTIAL, b"yes")], "write true, or false"),
        ("told", [(header.PARTIAL, b"true"), (header.CORRELATION_ID, b"c" * 20_000)], "16384"),
    ]
    async with started(producer, told.cluster):
        for endpoint, headers, _ in events:
            await producer.send_and_wait(event_topic(told.name, endpoint), b"hello", headers=headers)
        async with told.worker():
            # As no endpoint service would write it: there is no topic for its pieces. Its reply comes all the same.
            forged = make_request(
                "tell a b",
                id="forged",
                namespace=told.name,
                endpoint_version=1,
                reply_to=[ReplyAddress(topic=reply_topic(told.name, "task"))],
                partial=True,
            )
            lane = request_topic(told.name, "interactive")
            await producer.send_and_wait(lane, REQUEST.encode(forged))
            reply = await told.client.submit(told.address, "hello", timeout_s=60)
            assert isinstance(reply, Completed)
    of_told = [await told.records(reply_topic(told.name, "told"), number) for number in range(3)]
    answered = [*await told.replies(), *(REPLY.decode(record.value) for records in of_told for record in records)]
    refusals = [one for one in answered if isinstance(one, Failed)]
    assert {one.code for one in refusals} == {FailureCode.INVALID_HEADER}
    for _, _, words in events:
        assert any(words in one.message for one in refusals), words
    (one,) = [one for one in answered if one.id == "forged"]
    assert isinstance(one, Completed)
    assert one.value == "a b "
    assert one.partials is not None
    assert one.partials.pieces == [2]


# The publisher -------------------------------------------------------------------------------------------------------


def piece_to(topic: str, size: int = 10) -> Outgoing:
    return Outgoing(topic=topic, value=b"x" * size)


async def test_where_nothing_can_be_sent_pieces_are_dropped_and_counted_and_nobody_waits() -> None:
    asked = asyncio.Event()

    async def never(topic: str) -> int:
        asked.set()
        await asyncio.Event().wait()
        return 1

    async with PartialPublisher(Cluster("127.0.0.1:1"), never) as publisher:
        publisher.publish(piece_to("a", MOST_TOPIC_BYTES // 2), spread=0)
        await asked.wait()
        publisher.publish(piece_to("a", MOST_TOPIC_BYTES // 2), spread=0)
        assert publisher.dropped == 0
        publisher.publish(piece_to("a", MOST_TOPIC_BYTES // 2), spread=0)
        assert publisher.dropped == 1, "a topic has its own bound"
        publisher.publish(piece_to("b", MOST_TOPIC_BYTES // 2), spread=0)
        assert publisher.dropped == 1
    publisher.publish(piece_to("a"), spread=0)
    assert publisher.dropped > 1, "what comes too late is counted as well"
    assert not publisher._senders


async def test_a_topic_that_is_not_there_and_a_cluster_that_is_not_there_drop_pieces() -> None:
    async def partitions(topic: str) -> int:
        return 0 if topic == "missing" else 1

    async with PartialPublisher(Cluster("127.0.0.1:1"), partitions) as publisher:
        for topic in ("missing", "there", "there"):
            publisher.publish(piece_to(topic), spread=0)
        await asyncio.wait([*publisher._senders.values()])
    assert publisher.dropped == 3


async def test_a_topic_that_refuses_pieces_is_left_alone_and_no_other_is() -> None:
    async def partitions(topic: str) -> int:
        return 0

    refusing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    refusing.set_exception(TopicAuthorizationFailedError("a"))
    async with PartialPublisher(Cluster("127.0.0.1:1"), partitions) as publisher:
        publisher._look("a", None, refusing)
        publisher.publish(piece_to("a"), spread=0)
        assert publisher.dropped == 2
        assert not publisher._senders
        publisher.publish(piece_to("b"), spread=0)
        assert [*publisher._senders] == ["b"]


def test_attempts_are_never_the_same_and_pieces_are_numbered_in_each(make_request: Callable[..., Request]) -> None:
    sent: list[Outgoing] = []

    class Kept(PartialPublisher):
        def publish(self, out: Outgoing, *, spread: int) -> None:
            sent.append(out)

    async def nowhere(topic: str) -> int:
        return 0

    publisher = Kept(Cluster("nowhere:1"), nowhere)
    assert len({publisher.new_attempt() for _ in range(100)}) == 100
    request = make_request(generation=Generation(samples=2), partial=True)
    headers = [(header.CORRELATION_ID, b"c"), ("other", b"o")]
    record = Record(topic="t", partition=0, offset=0, timestamp_ms=0, key=b"k", value=b"", headers=headers)
    telling = Telling(request, record, publisher)
    telling.begin()
    telling.piece(0, "lost with its engine")
    telling.begin()
    for sample, text in [(0, "a"), (1, "b"), (0, "c"), (1, None)]:
        telling.piece(sample, text)
    told = [PARTIAL.decode(out.value) for out in sent]
    assert told[0].attempt < told[1].attempt == telling.streamed.attempt
    assert [(one.sample, one.number, one.text) for one in told[1:]] == [(0, 0, "a"), (1, 0, "b"), (0, 1, "c")]
    # The last of sample 1 was not told: whoever counts does not take it for whole.
    assert telling.streamed.pieces == [2, 2]
    assert {out.topic for out in sent} == {"gw.team.task.partial.v1"}
    assert all(out.key == b"k" and dict(out.headers)[header.CORRELATION_ID] == b"c" for out in sent)
    assert all("other" not in dict(out.headers) for out in sent)
