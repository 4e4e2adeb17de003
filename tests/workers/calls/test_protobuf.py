"""Events and replies in Protobuf on a real broker, from a client that has nothing of ours and from ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tests.conftest import ONE_OF_KINDS
from tests.protos import compiled, theirs
from tests.workers.end_to_end import EndToEnd, end_to_end_of

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.replies import reply_in
from guideway.infra.local_broker import RunningBroker
from guideway.producers.checks.check import faults_alone
from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.names.topics import event_topic, reply_topic
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed

EXAMPLE = Path(__file__).parents[3] / "examples" / "protobuf"
TEXT = EXAMPLE.joinpath("ticket.proto").read_text(encoding="utf-8")
Ticket = theirs("shop.v1.Ticket", TEXT)
FOREIGN = 'syntax = "proto3"; package a; message B { string x = 9; }'
Asked = tuple[bytes, dict[str, str]]
"""A value, and headers beside those of every event."""


@pytest.fixture(params=ONE_OF_KINDS)
async def shop(
    request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker], unique_name: str, tmp_path: Path
) -> AsyncIterator[EndToEnd]:
    """The endpoint of the example, as `/NAME/task`."""
    (source,) = read_manifests(EXAMPLE / "ticket-mood.yaml")
    assert not faults_alone([source])
    assert isinstance(source.manifest, Endpoint)
    endpoint = msgspec.structs.replace(source.manifest, namespace=unique_name, name="task", model_size=unique_name)
    copy = Endpoint(namespace=unique_name, name="copy", model_size=unique_name, output=endpoint.output)
    endpoint = msgspec.structs.replace(endpoint, targets=["copy"])
    cluster = broker_of_kind(request.param).cluster
    async with end_to_end_of(cluster, unique_name, tmp_path, more=[endpoint, copy]) as system, system.worker():
        yield system


async def answers(system: EndToEnd, asked: dict[str, Asked]) -> dict[str, Record]:
    """The record that answers each event."""
    topic = reply_topic(system.name, "task")
    async with started(make_producer(system.cluster, "test"), system.cluster) as producer:
        for name, (value, more) in asked.items():
            headers = {"correlation_id": name, "reply_to": topic} | more
            await producer.send_and_wait(
                event_topic(system.name, "task"),
                value,
                headers=[(key, text.encode()) for key, text in headers.items()],
            )
    async with asyncio.timeout(60):
        while True:
            found = {(one.header("correlation_id") or b"").decode(): one for one in await system.records(topic)}
            if found.keys() >= asked.keys():
                return found
            await asyncio.sleep(0.1)


async def test_events_and_replies_in_protobuf(shop: EndToEnd) -> None:
    value = Ticket(text="angry", customer={"name": "Ada"}).SerializeToString()
    plain, wanted = {"content-type": "application/protobuf"}, {"accept": "application/protobuf"}
    asked: dict[str, Asked] = {
        "json for protobuf": (value, plain),
        "framed": (b"\0\0\0\0\x07\0" + value, {}),
        "own message": (value, plain | wanted),
        "our message": (value, plain | {"accept": f"application/protobuf; messageType={REPLY_MESSAGE}"}),
        "protobuf for json": (b'{"text": "calm"}', {"content-type": "application/json"} | wanted),
        "protobuf for text": (b"calm", {"content-type": "text/plain"} | wanted),
        "failure": (Ticket(customer={"name": "Ada"}).SerializeToString(), plain | wanted),
        "failure of the result": (Ticket(text="refuse").SerializeToString(), plain | wanted),
        "foreign": (
            theirs("a.B", 'syntax = "proto3"; package a; message B { string x = 9; }')(x="a").SerializeToString(),
            plain,
        ),
        "no such message": (value, plain | {"accept": "application/protobuf; messageType=shop.v1.Ticket"}),
        "nothing that a reply can be": (value, plain | {"accept": "text/html"}),
    }
    found = await answers(shop, asked)
    mood = theirs("shop.v1.TicketMood", TEXT)
    own = "application/protobuf; messageType=shop.v1.TicketMood"
    ours = f"application/protobuf; messageType={REPLY_MESSAGE}"

    def content_type(name: str) -> str:
        return (found[name].header("content-type") or b"").decode()

    for name in ("json for protobuf", "framed", "our message"):
        reply = reply_in(found[name])
        assert isinstance(reply, Completed), reply
        assert reply.value == "angry"
        assert content_type(name) == (ours if name == "our message" else "application/json")
    for name in ("own message", "protobuf for json", "protobuf for text"):
        assert content_type(name) == own
        assert mood.FromString(found[name].value).mood == ("angry" if name == "own message" else "calm")
    codes = {
        "failure": FailureCode.MISSING_FIELD,
        "failure of the result": FailureCode.TEXT_TOO_LONG,
        "foreign": FailureCode.UNDECODABLE_EVENT,
        "no such message": FailureCode.INVALID_HEADER,
        "nothing that a reply can be": FailureCode.INVALID_HEADER,
    }
    for name, code in codes.items():
        reply = reply_in(found[name])
        assert isinstance(reply, Failed), reply
        assert (reply.code, found[name].header("guideway_failure_code")) == (code, code.value.encode())
    assert content_type("failure") == content_type("failure of the result") == content_type("no such message") == ours
    assert content_type("foreign") == content_type("nothing that a reply can be") == "application/json"
    # A target gets JSON, whatever the caller wants.
    copies = await shop.all_replies(reply_topic(shop.name, "copy"))
    assert sorted(one.value for one in copies) == ["angry"] * 4 + ["calm"] * 2


async def test_the_example_client_gets_its_message(shop: EndToEnd) -> None:
    async def run(*arguments: str) -> tuple[int, list[str]]:
        command = [sys.executable, str(EXAMPLE / "client.py"), shop.cluster.brokers, *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode().splitlines()

    own = "application/protobuf; messageType=shop.v1.TicketMood"
    assert await run("angry", shop.address) == (0, [own, 'mood: "angry"'])
    code, (content_type, told) = await run("angry", shop.address, REPLY_MESSAGE)
    assert (code, content_type) == (0, f"application/protobuf; messageType={REPLY_MESSAGE}")
    assert 'value_json: "\\"angry\\""' in told
    code, (content_type, told) = await run("refuse", shop.address)
    assert (code, content_type) == (1, f"application/protobuf; messageType={REPLY_MESSAGE}")
    assert 'code: "text_too_long"' in told


async def test_our_client_sends_a_message(shop: EndToEnd) -> None:
    assert (await shop.client.submit(shop.address, Ticket(text="calm"), timeout_s=60)).value == "calm"
    foreign = theirs("shop.v1.TicketMood", TEXT)(mood="calm")
    reply = await shop.client.submit(shop.address, foreign, timeout_s=60)
    assert isinstance(reply, Failed)
    assert "names message 'shop.v1.TicketMood'" in reply.message


def test_the_examples_descriptors_are_those_of_its_file() -> None:
    written = FileDescriptorSet.FromString(EXAMPLE.joinpath("ticket.binpb").read_bytes())
    assert written == compiled(TEXT, "ticket.proto")
