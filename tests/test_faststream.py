"""Programs made with FastStream: the example without Kafka, headers of any kind, and an endpoint on a real broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

pytest.importorskip("faststream", reason="faststream is not installed (pip install 'guideway[faststream]')")

from examples.pipelines import complaints
from faststream.kafka import KafkaBroker, KafkaMessage, TestKafkaBroker
from faststream.kafka.parser import AioKafkaParser
from tests.conftest import ONE_OF_KINDS
from tests.workers.end_to_end import end_to_end_of

from guideway.faststream import Endpoint, parser, stand_in
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed, Failed


def mood_of(text: str) -> str:
    if text == "nonsense":
        raise Refusal(FailureCode.OUTPUT_INCOMPLETE, "raise max_tokens")
    return "negative" if "cold" in text else "positive"


async def test_the_example_lets_complaints_through() -> None:
    broker = complaints.broker
    async with TestKafkaBroker(broker, stand_in(complaints.mood, mood_of)):
        for text in ("The soup was cold.", "Thank you!"):
            await broker.publish(text, "reviews", key=b"customer-7")
        assert complaints.complaints.mock is not None
        complaints.complaints.mock.assert_called_once_with("The soup was cold.")
        with pytest.raises(Refusal, match="raise max_tokens"):
            await broker.publish("nonsense", "reviews")


async def test_an_endpoint_takes_fields_and_tells_of_failures() -> None:
    broker = KafkaBroker(parser=parser)
    endpoint = Endpoint(broker, "/shop/mood", via="other")
    asked: list[Any] = []

    def answer(content: Any) -> Any:
        asked.append(content)
        if content == "no":
            raise Refusal(FailureCode.TEXT_TOO_LONG, "shorten it")
        return {"ok": True}

    async with TestKafkaBroker(broker, stand_in(endpoint, answer)):
        reply = await endpoint({"text": "Füße"}, request_id="one", generation={"seed": 1}, deadline_s=60)
        assert isinstance(reply, Completed)
        assert (reply.id, reply.value) == ("one", {"ok": True})
        failed = await endpoint("no")
        assert isinstance(failed, Failed)
        assert failed.code is FailureCode.TEXT_TOO_LONG
    assert asked == [{"text": "Füße"}, "no"]
    assert endpoint.topic == "gw.other.call.v1"
    assert not endpoint._waiting


async def test_headers_of_any_kind_are_read() -> None:
    record: ConsumerRecord[bytes, bytes] = ConsumerRecord(
        topic="t",
        partition=0,
        offset=3,
        timestamp=1,
        timestamp_type=0,
        key=b"k",
        value=b"hello",
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=5,
        headers=[("kafka_correlationId", b"\x00\xff" * 8), ("empty", None), ("content-type", b"text/plain")],
    )
    original = AioKafkaParser(msg_class=KafkaMessage, regex=None).parse_message
    with pytest.raises((AttributeError, UnicodeDecodeError)):
        await original(record)
    message = await parser(record, original)
    assert message.headers == {"kafka_correlationId": "\x00\\xff" * 8, "content-type": "text/plain"}
    assert message.raw_message is record


@pytest.mark.parametrize("kind", ONE_OF_KINDS)
async def test_an_endpoint_on_a_broker(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], unique_name: str, tmp_path: Path
) -> None:
    running = broker_of_kind(kind)
    async with end_to_end_of(running.cluster, unique_name, tmp_path) as made, made.worker():
        broker = KafkaBroker(
            running.cluster.brokers,
            parser=parser,
            allow_auto_create_topics=False,
            logger=logging.getLogger("test"),
        )
        task = Endpoint(broker, made.address)
        async with broker:
            await broker.start()
            replies = await asyncio.gather(*(task(f"hello {number}", key="k") for number in range(20)))
    assert [reply.value for reply in replies] == [f"hello {number}" for number in range(20)]
