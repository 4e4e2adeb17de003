"""Callers that know nothing of guideway: they have docs/wire.md, and no code of ours."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from guideway.infra.apache_kafka import java
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import Refusal

from .callers import CLIENTS, command_of
from .conftest import System

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

QUESTION = "Is the Earth round?\nAnd why?"


@pytest.fixture(params=CLIENTS)
def client_command(request: pytest.FixtureRequest, broker: RunningBroker) -> list[str]:
    if request.param == "spring" and broker.kind != "apache-kafka":
        pytest.skip("Spring is tried on Apache Kafka only")
    return command_of(request.param)


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=200, check=False)


def test_an_example_client_gets_its_typed_reply(system: System, client_command: list[str]) -> None:
    done = run(client_command, system.cluster.brokers, "/public/fact-yes-no", QUESTION, "120")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["schema"] == "guideway.reply.completed.v1"
    assert (reply["namespace"], reply["endpoint"]) == ("public", "fact-yes-no")
    (sample,) = reply["samples"]
    assert (sample["value"], sample["text"]) in {(True, "yes"), (False, "no")}


def test_an_example_client_tells_of_a_failed_reply(system: System, client_command: list[str]) -> None:
    done = run(client_command, system.cluster.brokers, "/public/fact-yes-no", "long " * 5000, "120")
    assert done.returncode == 1, done.stderr
    reply = json.loads(done.stdout)
    assert (reply["code"], reply["retryable"]) == ("text_too_long", False)
    assert "shorten" in reply["message"]


def test_an_example_client_tells_of_no_reply_and_of_no_endpoint(system: System, client_command: list[str]) -> None:
    late = run(client_command, system.cluster.brokers, "/public/fact-yes-no", QUESTION, "0.001")
    assert (late.returncode, late.stdout) == (2, "")
    assert "no reply within 0.001 s" in late.stderr
    nowhere = run(client_command, system.cluster.brokers, "/public/no-such-endpoint", QUESTION, "5")
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert nowhere.stderr
    misspelt = run(client_command, system.cluster.brokers, "no address", QUESTION)
    assert misspelt.returncode == 64


@contextlib.contextmanager
def listening(system: System, endpoint: str) -> Iterator[Callable[[bytes], Message]]:
    """Gives, by librdkafka, the one reply with a correlation id; fails if there are two within a second."""
    topic = f"gw.public.{endpoint}.out.v1"
    reading = {"group.id": "not-used", "enable.auto.commit": False, "isolation.level": "read_committed"}
    consumer = Consumer({"bootstrap.servers": system.cluster.brokers} | reading)

    def reply_with(correlation: bytes) -> Message:
        found: list[Message] = []
        until = time.monotonic() + 120
        while (left_s := until - time.monotonic()) > 0:
            message = consumer.poll(left_s)
            if message is None or message.error() or dict(message.headers() or []).get("correlation_id") != correlation:
                continue
            if not found:
                until = time.monotonic() + 1
            found.append(message)
        (only,) = found
        return only

    try:
        partitions = [TopicPartition(topic, number) for number in consumer.list_topics(topic).topics[topic].partitions]
        for partition in partitions:
            partition.offset = consumer.get_watermark_offsets(partition, timeout=20)[1]
        consumer.assign(partitions)
        yield reply_with
    finally:
        consumer.close()


def ask(system: System, endpoint: str, value: bytes | None, headers: Mapping[str, bytes], key: bytes | None) -> Message:
    """The reply to a record sent by librdkafka."""
    # Text, for the cloudevents library reads every header and key as UTF-8; Spring's test has binary ones.
    correlation = uuid.uuid4().hex.encode()
    producer = Producer({"bootstrap.servers": system.cluster.brokers, "enable.idempotence": True})
    with listening(system, endpoint) as reply_with:
        sent = {**headers, "correlation_id": correlation, "traceparent": TRACE}
        producer.produce(f"gw.public.{endpoint}.in.v1", value, key=key, headers=sent)
        assert producer.flush(30) == 0
        return reply_with(correlation)


TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT_ATTRIBUTES = {
    "id": "e-17",
    "source": "/shop",
    "type": "question",
    "specversion": "1.0",
    "datacontenttype": "application/json",
}


@pytest.mark.parametrize("convert", [to_structured_event, to_binary_event])
@pytest.mark.parametrize(("data", "status"), [({"text": QUESTION}, "completed"), ({"nonsense": 1}, "failed")])
def test_cloud_events_in_and_out(system: System, convert: object, data: dict[str, object], status: str) -> None:
    event = CloudEvent(attributes=dict(EVENT_ATTRIBUTES), data=data)
    message = convert(event, JSONFormat())  # type: ignore[operator]
    reply = ask(system, "fact-yes-no", message.value, message.headers, "schön".encode())
    headers = dict(reply.headers())
    assert reply.key() == "schön".encode()
    assert headers["traceparent"] == TRACE
    # Their library reads our reply.
    read = from_binary_event(KafkaMessage(headers=headers, key=reply.key(), value=reply.value()), JSONFormat())
    assert (read.get_id(), read.get_source()) == ("e-17", "/public/fact-yes-no")
    assert read.get_type() == f"guideway.reply.{status}.v1"
    content = read.get_data()
    assert isinstance(content, dict)
    assert content["id"] == "e-17"
    assert content.get("code") == (None if status == "completed" else "unknown_field")


def test_confluent_framing(system: System) -> None:
    value = b"\x00\x00\x00\x00\x2a" + json.dumps({"text": QUESTION}).encode()
    reply = ask(system, "fact-true-false", value, {}, b"\xff\x00")
    assert json.loads(reply.value())["samples"][0]["text"] in {"true", "false"}
    assert reply.key() == b"\xff\x00"


@pytest.mark.parametrize("parts", ["key", "header"])
def test_a_record_too_large_to_answer_holds_up_nobody(system: System, parts: str) -> None:
    large = b"x" * 1_200_000
    producer = Producer({"bootstrap.servers": system.cluster.brokers, "message.max.bytes": 4_000_000})
    outcomes: list[object] = []
    producer.produce(
        "gw.public.fact-one-zero.in.v1",
        b"hello",
        key=large if parts == "key" else None,
        headers={} if parts == "key" else {"correlation_id": large},
        on_delivery=lambda error, _: outcomes.append(error),
    )
    assert producer.flush(30) == 0
    assert outcomes == [None]
    reply = ask(system, "fact-one-zero", QUESTION.encode(), {"request_id": b"next"}, None)
    assert json.loads(reply.value())["id"] == "next"


def test_a_header_name_that_is_no_text_stops_nobody(system: System) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed (Debian: apt-get install kcat)")
    command = ["kcat", "-P", "-b", system.cluster.brokers, "-t", "gw.public.fact-one-zero.in.v1"]
    with listening(system, "fact-one-zero") as reply_with:
        named: list[str | bytes] = [*command, "-H", b"\xff\xfe=1", "-H", "correlation_id=odd"]
        # kcat makes an event of each line.
        subprocess.run(named, input=b"Is the Earth round?", check=True, timeout=60)
        assert dict(reply_with(b"odd").headers())["guideway_status"] == b"completed"


def test_spring_with_its_defaults(system: System) -> None:
    if system.kind != "apache-kafka":
        pytest.skip("Spring is tried on Apache Kafka only")
    folder = os.environ.get("GUIDEWAY_SPRING_CALLER")
    if not folder or not Path(folder, "spring-caller.jar").is_file():
        pytest.skip("set GUIDEWAY_SPRING_CALLER to a folder with spring-caller.jar and libs/")
    try:
        program = java(os.environ)
    except Refusal as refusal:
        pytest.skip(refusal.message)
    path = os.pathsep.join([f"{folder}/spring-caller.jar", f"{folder}/libs/*", f"{os.environ['KAFKA_HOME']}/libs/*"])
    keys = [f"key-{number}" if number % 2 else None for number in range(20)]
    lines = [f"{key}\tIs {n} odd?" if key else f"Is {n} odd?" for n, key in enumerate(keys)]
    topics = ("gw.public.fact-yes-no.in.v1", "gw.public.fact-yes-no.out.v1")
    done = subprocess.run(
        [program, "-cp", path, "SpringCaller", system.cluster.brokers, *topics, "120"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    replies = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(number, kind) for number, kind, *_ in replies] == [(str(n), "reply") for n in range(20)]
    assert [None if key == "null" else key for _, _, key, *_ in replies] == keys
    correlations = set()
    for _, _, _, value, headers in replies:
        assert json.loads(value)["samples"][0]["value"] in {True, False}
        by_name = dict(header.split("=") for header in headers.split(","))
        correlations.add(bytes.fromhex(by_name["kafka_correlationId"]))
        assert bytes.fromhex(by_name["guideway_status"]) == b"completed"
    # Spring takes a reply only under the very bytes that it sent.
    assert {len(correlation) for correlation in correlations} == {16}
    assert len(correlations) == 20
