"""Calls of endpoints through the general address, on a real broker, with an engine process that has no model."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.workers.end_to_end import EndToEnd, end_to_end_of, manifests, until

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.intake.shares import QUEUE
from guideway.schemas.failures import FailureCode
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names import header
from guideway.schemas.names.addresses import CALL
from guideway.schemas.names.service_topics import AUDIT_TOPIC
from guideway.schemas.names.topics import call_topic, dead_letter_topic, reply_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import AUDITED, CANCELLATION, REPLY, REQUEST

KCAT = Path(__file__).parents[3] / "examples" / "clients" / "kcat.sh"


@pytest.fixture
async def shared(broker: RunningBroker, unique_name: str, tmp_path: Path) -> AsyncIterator[EndToEnd]:
    """Namespace NAME shares `task` with `NAME-guest`; `private` it does not. Both have general addresses."""
    task = next(one for one in manifests(unique_name) if isinstance(one, Endpoint) and one.name == "task")
    guest = f"{unique_name}-guest"
    more: list[Manifest] = [
        Endpoint(
            namespace=unique_name, name="task", model_size=unique_name, output=task.output, access=[guest],
            targets=["private"], instruction="Our secret instruction.",
        ),
        Endpoint(namespace=unique_name, name="private", model_size=unique_name, output=Text()),
        Endpoint(namespace=guest, name="own", model_size=unique_name, output=Text()),
        Model(namespace="public", name=f"{unique_name}-idle", source="fine", fingerprint="sha256:" + "0" * 64),
        Endpoint(namespace=unique_name, name="stuck", model_size=f"{unique_name}-idle", output=Text(), access=["*"]),
    ]  # fmt: skip
    async with end_to_end_of(broker.cluster, unique_name, tmp_path, more=more) as made:
        yield made


async def called(system: EndToEnd, address: str, text: str, request_id: str | None = None) -> Reply:
    via = f"{system.name}-guest"
    return await system.client.submit(address, text, via=via, request_id=request_id, timeout_s=60)


def replies_to_calls(system: EndToEnd) -> str:
    return reply_topic(f"{system.name}-guest", CALL)


async def test_who_may_call_is_answered_on_its_own_topic_and_nowhere_else(shared: EndToEnd) -> None:
    async with shared.worker():
        reply = await called(shared, shared.address, "hello")
        own = await called(shared, f"/{shared.name}-guest/own", "mine")
        told = await shared.submit("of the owner")
    assert isinstance(reply, Completed)
    assert reply.value == "hello"
    assert (reply.namespace, reply.endpoint) == (shared.name, "task")
    assert isinstance(own, Completed)
    assert isinstance(told, Completed)
    assert await shared.all_replies(replies_to_calls(shared)) == [reply, own]
    for name in ("task", "private"):
        theirs = await shared.all_replies(reply_topic(shared.name, name))
        assert theirs == [told], "the owner and its targets see its own requests only"
    assert await shared.all_replies(reply_topic(f"{shared.name}-guest", "own")) == []


async def test_who_may_not_call_learns_nothing(shared: EndToEnd) -> None:
    private = await called(shared, f"/{shared.name}/private", "hello")
    absent = await called(shared, f"/{shared.name}/privato", "hello")
    nobody = await called(shared, "/nobody/private", "hello")
    assert isinstance(private, Failed)
    assert isinstance(absent, Failed)
    assert isinstance(nobody, Failed)
    assert private.code is absent.code is nobody.code is FailureCode.NOT_ALLOWED
    assert private.message == absent.message.replace("privato", "private")
    assert private.message == nobody.message.replace("nobody", shared.name)
    assert "task" not in private.message


async def test_a_caller_is_told_nothing_of_how_the_endpoint_is_made(shared: EndToEnd) -> None:
    async with shared.worker():
        refused = await called(shared, shared.address, "refuse")
        owner = await shared.submit("refuse")
    assert isinstance(refused, Failed)
    assert refused.code is FailureCode.TEXT_TOO_LONG
    assert refused.message.startswith("the text is too long for the endpoint: shorten it")
    assert isinstance(owner, Failed)
    assert owner.message == "too long"


async def test_replies_go_to_topics_of_the_caller_only(shared: EndToEnd) -> None:
    theirs, mine = reply_topic(shared.name, "task"), replies_to_calls(shared)
    headers = {header.ENDPOINT: shared.address, header.REPLY_TO: theirs}
    await publish(shared, b"hello", headers)

    async def is_answered() -> bool:
        return bool(await shared.records(mine))

    await until(is_answered)
    [reply] = await shared.all_replies(mine)
    assert isinstance(reply, Failed)
    assert reply.code is FailureCode.REPLY_ADDRESS_REFUSED
    assert await shared.records(theirs) == []


async def test_a_call_that_names_no_endpoint_is_answered(shared: EndToEnd) -> None:
    await publish(shared, b"hello", {header.REQUEST_ID: "r1"})
    await publish(shared, b"hello", {header.REQUEST_ID: "r2", header.ENDPOINT: "/../task"})

    async def are_answered() -> bool:
        return len(await shared.records(replies_to_calls(shared))) == 2

    await until(are_answered)
    replies = {reply.id: reply for reply in await shared.all_replies(replies_to_calls(shared))}
    assert isinstance(one := replies["r1"], Failed)
    assert (one.code, one.endpoint) == (FailureCode.NO_ROUTE, "call")
    assert "`endpoint`" in one.message
    assert isinstance(two := replies["r2"], Failed)
    assert (two.code, two.endpoint) == (FailureCode.INVALID_HEADER, "call")


async def test_a_caller_cancels_its_own_requests_only(shared: EndToEnd) -> None:
    theirs = shared.submit("theirs", "same-id")
    mine = asyncio.create_task(called(shared, shared.address, "mine", "same-id"))

    async def both_wait() -> bool:
        number = 0
        for partition in range(2):
            number += len(await shared.records(request_topic(shared.name, "interactive"), partition))
        return number == 2

    await until(both_wait)
    await shared.client.cancel(shared.address, "same-id", via=f"{shared.name}-guest")
    # Who has no right is told, and nothing is cancelled.
    await shared.client.cancel(f"/{shared.name}/private", "same-id", via=f"{shared.name}-guest")

    async def is_published() -> bool:
        return bool(await shared.cancellations())

    await until(is_published)
    [record] = await shared.cancellations()
    assert CANCELLATION.decode(record.value).caller == f"{shared.name}-guest"
    async with shared.worker():
        assert isinstance(await theirs, Completed)
        refused = await mine
    assert isinstance(refused, Failed)
    assert refused.code is FailureCode.CANCELLED


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")
async def test_kcat_calls(shared: EndToEnd) -> None:
    environ = {**os.environ, "VIA": f"{shared.name}-guest"}
    command = ["bash", str(KCAT), shared.cluster.brokers, shared.address, "hello", "60"]
    async with shared.worker():
        caller = await asyncio.create_subprocess_exec(*command, env=environ, stdout=asyncio.subprocess.PIPE)
        told, _ = await caller.communicate()
    assert caller.returncode == 0
    reply = REPLY.decode(told)
    assert isinstance(reply, Completed)
    assert (reply.value, reply.endpoint) == ("hello", "task")


async def test_the_command_line_calls(shared: EndToEnd) -> None:
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": shared.cluster.brokers}
    command = [sys.executable, "-m", "guideway", "send", "--json", "--via"]
    made = [[f"{shared.name}-guest", shared.address], ["nobody-here", shared.address], ["../x", shared.address]]
    pipe = asyncio.subprocess.PIPE
    async with shared.worker():
        callers = [
            await asyncio.create_subprocess_exec(*command, *one, "hello", env=environ, stdout=pipe, stderr=pipe)
            for one in made
        ]
        told = [(*await one.communicate(), one.returncode) for one in callers]
    out, _, code = told[0]
    assert code == 0
    assert b'"value":"hello"' in out
    for (out, err, code), what in zip(told[1:], (b"has no general address", b"no namespace"), strict=True):
        assert code == 1
        assert what in out
        assert b"Traceback" not in out + err


async def test_a_lane_that_stands_still_holds_up_calls_to_it_and_no_others(shared: EndToEnd) -> None:
    """Nobody works for its size: more calls than the lane takes wait at the gate, and those behind them overtake."""
    waiting = QUEUE + 40
    async with started(make_producer(shared.cluster, "test", linger_ms=5), shared.cluster) as producer:
        headers = [(header.ENDPOINT, f"/{shared.name}/stuck".encode())]
        topic = call_topic(f"{shared.name}-guest")
        sent = [await producer.send(topic, value=b"hello", headers=headers) for _ in range(waiting)]
        await asyncio.gather(*sent)
    lane = request_topic(f"{shared.name}-idle", "interactive")

    async def is_full() -> bool:
        return sum([len(await shared.records(lane, number)) for number in range(4)]) >= QUEUE

    await until(is_full)
    async with shared.worker():
        for number in range(3):
            reply = await called(shared, shared.address, f"hello {number}")
            assert isinstance(reply, Completed)
            assert reply.value == f"hello {number}"
    assert sum([len(await shared.records(lane, number)) for number in range(4)]) < waiting


async def test_a_request_that_somebody_wrote_is_a_dead_letter_and_nobodys_reply(shared: EndToEnd) -> None:
    topic = request_topic(shared.name, "interactive")
    mine = reply_topic(shared.name, "task")
    true = Request(
        id="r", namespace=shared.name, endpoint="private", endpoint_version=1,
        parts=[Part(kind="input", source="caller", text="hello")], guidance=[], output=Text(), words=[],
        generation=Generation(), reply_to=[ReplyAddress(topic=mine)], deadline_ms=None,
    )  # fmt: skip
    guest = f"{shared.name}-guest"
    forged = {
        "endpoint": msgspec.structs.replace(true, endpoint="none"),
        "version": msgspec.structs.replace(true, endpoint_version=7),
        "generation": msgspec.structs.replace(true, generation=Generation(max_tokens=9999)),
        "instruction": msgspec.structs.replace(true, endpoint="task"),
        "reply address": msgspec.structs.replace(true, reply_to=[ReplyAddress(topic=f"gw.{guest}.call.out.v1")]),
        "deadline": msgspec.structs.replace(true, deadline_ms=1, generation=Generation(seed=1)),
    }
    # It agrees in all but the right: whoever it claims to be from is told, and learns nothing.
    foreign = msgspec.structs.replace(true, caller=guest, reply_to=[ReplyAddress(topic=f"gw.{guest}.call.out.v1")])
    async with started(make_producer(shared.cluster, "test"), shared.cluster) as producer:
        for one in [*forged.values(), foreign, true]:
            await producer.send_and_wait(topic, value=REQUEST.encode(one), partition=0)
    async with shared.worker():

        async def all_came_of() -> bool:
            letters = await shared.records(dead_letter_topic(topic))
            return len(letters) == len(forged) and bool(await shared.records(mine))

        await until(all_came_of)
    letters = await shared.records(dead_letter_topic(topic))
    assert {letter.header("guideway_dlq_code") for letter in letters} == {b"not_allowed", b"reply_address_refused"}
    assert [reply.value for reply in await shared.all_replies(mine)] == ["hello"], "to the one that agrees"
    [refused] = await shared.all_replies(f"gw.{guest}.call.out.v1")
    assert isinstance(refused, Failed)
    assert refused.code is FailureCode.NOT_ALLOWED


async def test_refusals_stand_in_the_audit_trail(shared: EndToEnd) -> None:
    await make_topics(shared.cluster, [topics.TopicDefinition(AUDIT_TOPIC)])
    for name in ("private", "private", "other"):
        await called(shared, f"/{shared.name}/{name}", "secret text")
    await publish(shared, b"secret text", {header.ENDPOINT: shared.address, header.REPLY_TO: "gw.nobody.x.out.v1"})
    guest = f"{shared.name}-guest"

    async def trail() -> list[Audited]:
        found = [AUDITED.decode(record.value) for record in await shared.records(AUDIT_TOPIC)]
        return [one for one in found if one.namespace == guest]

    async def is_told() -> bool:
        return len(await trail()) == 3

    await until(is_told)
    told = {(one.what, one.code, one.count) for one in await trail()}
    assert told == {
        (f"/{shared.name}/private", FailureCode.NOT_ALLOWED, 1),
        (f"/{shared.name}/other", FailureCode.NOT_ALLOWED, 1),
        (shared.address, FailureCode.REPLY_ADDRESS_REFUSED, 1),
    }
    for one in await trail():
        assert one.topic == call_topic(guest)
        assert one.service == "endpoints"


async def publish(system: EndToEnd, value: bytes, headers: dict[str, str]) -> None:
    """An event on the guest's general address."""
    async with started(make_producer(system.cluster, "test"), system.cluster) as producer:
        await producer.send_and_wait(
            call_topic(f"{system.name}-guest"),
            value=value,
            headers=[(name, text.encode()) for name, text in headers.items()],
        )
