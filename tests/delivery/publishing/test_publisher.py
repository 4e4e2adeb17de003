"""One transaction's records, beside a producer of a few lines: what is sent, and what is known of it when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.in_flight import InFlight
from guideway.delivery.publishing.deliverable import Result
from guideway.delivery.publishing.publisher import Publisher, Sending
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.record import Outgoing, Record

TP = TopicPartition("in", 0)
OFFSETS = OffsetAndMetadata(3, "")


class FewLines:
    """A producer. Topics named in `errors` refuse, or cannot be sent to at all; `stuck` ones never answer."""

    def __init__(self, errors: dict[str, KafkaError] | None = None, stuck: str = "", unreachable: str = "") -> None:
        self.errors, self.stuck, self.unreachable = errors or {}, stuck, unreachable
        self.calls: list[str] = []

    async def begin_transaction(self) -> None:
        self.calls.append("begin")

    async def send(self, topic: str, **_: Any) -> asyncio.Future[str]:
        if topic == self.unreachable:
            raise KafkaConnectionError("no metadata")
        self.calls.append(topic)
        future = asyncio.get_running_loop().create_future()
        if topic in self.errors:
            future.set_exception(self.errors[topic])
        elif topic != self.stuck:
            future.set_result(f"at {topic}")
        return future

    async def send_offsets_to_transaction(self, offsets: dict[TopicPartition, OffsetAndMetadata], group: str) -> None:
        self.calls.append(f"offsets {offsets[TP].offset} of {group}")

    async def commit_transaction(self) -> None:
        self.calls.append("commit")


def to(*topics: str) -> list[Outgoing]:
    return [Outgoing(topic=topic, value=b"v") for topic in topics]


async def _nothing(*_: Any) -> Any:
    return None


class Published:
    """A publisher, its results by offset, and what it told."""

    def __init__(self, records: dict[int, list[Outgoing]]) -> None:
        self.records = records
        self.work = InFlight(_nothing, _nothing, may_begin=_nothing, on_result=lambda took_s: None)
        for offset, outgoing in records.items():
            record = Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=None, value=b"")
            self.work.ready[offset] = Result(record, outgoing)
        self.told: list[tuple[str, Any]] = []
        self.publisher = Publisher(
            TP,
            group="g",
            kafka=None,  # type: ignore[arg-type]  # only `next_batch` asks it anything
            settings=DeliverySettings(cluster=Cluster("b")),
            work=self.work,
            on_published=lambda topic, placed: self.told.extend((out.topic, at) for out, at in placed),
        )

    async def transact(self, producer: FewLines) -> None:
        await self.publisher.transact(producer, self.records, OFFSETS)


async def test_records_and_offsets_are_of_one_transaction() -> None:
    published, producer = Published({1: to("a"), 2: to("b", "a")}), FewLines()
    await published.transact(producer)
    assert producer.calls == ["begin", "a", "b", "a", "offsets 3 of g", "commit"]
    assert published.told == [("a", "at a"), ("b", "at b"), ("a", "at a")]


async def test_a_refused_record_ends_the_transaction_before_its_offsets_and_is_remembered() -> None:
    published, error = Published({1: to("a"), 2: to("small", "a")}), MessageSizeTooLargeError()
    producer = FewLines({"small": error})
    with pytest.raises(MessageSizeTooLargeError) as caught:
        await published.transact(producer)
    assert caught.value is error
    assert producer.calls == ["begin", "a", "small", "a"]
    assert published.told == []
    assert (list(published.work.ready[1].refused), list(published.work.ready[2].refused)) == ([], ["small"])


async def test_records_that_were_refused_together_are_sent_in_smaller_batches_before_any_is_blamed() -> None:
    published, error = Published({1: to("small"), 2: to("small", "a")}), MessageSizeTooLargeError()
    for in_small_batches in (False, True):
        assert published.publisher.in_small_batches is in_small_batches
        with pytest.raises(MessageSizeTooLargeError):
            await published.transact(FewLines({"small": error}))
        blamed = [list(published.work.ready[offset].refused) for offset in (1, 2)]
        assert blamed == ([["small"], ["small"]] if in_small_batches else [[], []])


async def test_a_transaction_that_times_out_waits_for_the_topics_that_took_nothing() -> None:
    sending = Sending({1: to("a"), 2: to("stuck"), 3: to("b")})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await sending.run(FewLines(stuck="stuck"))
    assert sending.waiting_topics() == {"stuck"}
    sending.give_up()


async def test_a_topic_that_cannot_even_be_sent_to_is_waited_for_and_not_what_stands_behind_it() -> None:
    sending = Sending({1: to("a"), 2: to("gone", "b"), 3: to("c")})
    with pytest.raises(KafkaConnectionError):
        await sending.run(FewLines(unreachable="gone"))
    assert sending.waiting_topics() == {"gone"}
    sending.give_up()
