"""What team A tries through what it may do: events, calls, headers, ids. Each is refused or without effect.

The services run as their own principals, and the engine tells whoever asks all that it is shown (world.py).
"""

from __future__ import annotations

import gzip
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, Final

import pytest
from tests.secured.services.ground import SECRET
from tests.secured.services.world import World, value_of

CALL, OWN = "gw.a.call.v1", "gw.a.own.in.v1"
PRIVATE: Final = "gw.b.private.in.v1"
TOPICS_OF_A: Final = {
    "gw.a.own.in.v1": 1,
    "gw.a.own.in.v1.dlq": 1,
    "gw.a.own.out.v1": 1,
    "gw.a.short.in.v1": 1,
    "gw.a.short.in.v1.dlq": 1,
    "gw.a.short.out.v1": 1,
    "gw.a.call.v1": 3,
    "gw.a.call.v1.dlq": 1,
    "gw.a.call.out.v1": 3,
    "gw.a.catalogue.v1": 1,
    "gw.a.training-events.v1": 1,
    "gw.public.catalogue.v1": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _nothing_of_b_appears_in_what_a_gets(world: World) -> Iterator[None]:
    """After all attacks: no record that A may read holds anything of B's, and B is served as before."""
    yield
    for topic, partitions in TOPICS_OF_A.items():
        for message in world.a.read(topic, partitions=partitions):
            told = (message.value() or b"") + repr(message.headers()).encode() + (message.key() or b"")
            assert SECRET.encode() not in told, (topic, message.offset())
    private = value_of(world.b.call(PRIVATE, "as ever"))
    told = sorted(text for kind, _, text in private["parts"] if kind == "instruction")
    assert told == [f"B's instruction: {SECRET}", f"B's prompt: {SECRET}"]
    # What B got is what B asked for.
    assert len(world.b.read("gw.b.private.out.v1")) <= len(world.b.read(PRIVATE))


def refusal_of(reply: Mapping[str, Any]) -> tuple[str, str]:
    """(code, message) of a failed reply."""
    assert reply["schema"] == "guideway.reply.failed.v1", reply
    assert SECRET not in json.dumps(reply)
    return reply["code"], reply["message"]


# Calls ---------------------------------------------------------------------------------------------------------------


def test_a_call_of_a_private_endpoint_is_refused(world: World) -> None:
    code, message = refusal_of(world.a.call(CALL, "x", {"endpoint": "/b/private"}))
    assert code == "not_allowed"
    assert "access" in message


def test_what_is_there_and_what_is_not_are_refused_in_the_same_words(world: World) -> None:
    there = refusal_of(world.a.call(CALL, "x", {"endpoint": "/b/private"}))
    absent = refusal_of(world.a.call(CALL, "x", {"endpoint": "/b/privato"}))
    nobody = refusal_of(world.a.call(CALL, "x", {"endpoint": "/zz/private"}))
    assert there == (absent[0], absent[1].replace("privato", "private"))
    assert there == (nobody[0], nobody[1].replace("zz", "b"))


def test_what_is_there_and_what_is_not_are_refused_in_the_same_time(world: World) -> None:
    took: dict[str, list[float]] = {"/b/private": [], "/b/privato": []}
    for _ in range(8):
        for address, times in took.items():
            began = time.monotonic()
            world.a.call(CALL, "x", {"endpoint": address})
            times.append(time.monotonic() - began)
    there, absent = (median(times) for times in took.values())
    # Both wait for the next flush, and for the catalogue to be current.
    assert 0.4 < there / absent < 2.5


@pytest.mark.parametrize(
    "address",
    [
        *(
            "/b/../b/private",
            "/a/../b/private",
            "//b/private",
            "/b/private/",
            "b%2Fprivate",
            "/B/private",
            "/b/рrivate",
        ),
        *("", "/b/private\x00", "/ａ/own", "/*/private", "/b/*", "/gw/b", "/b/private@1", "x" * 10_000),
    ],
)
def test_an_address_that_is_none_reaches_nobody(world: World, address: str) -> None:
    code, message = refusal_of(world.a.call(CALL, "x", {"endpoint": address}))
    assert code in {"invalid_header", "not_allowed", "unknown_endpoint", "no_route"}
    assert len(message) < 600


def test_a_header_on_an_endpoints_own_topic_calls_no_other(world: World) -> None:
    reply = world.a.call(OWN, "x", {"endpoint": "/b/private"})
    assert (reply["namespace"], reply["endpoint"]) == ("a", "own")
    value_of(reply)


def test_a_cloud_event_cannot_say_where_it_comes_from(world: World) -> None:
    forged = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_type": "x",
        "ce_source": "/b/private",
        "ce_endpoint": "/b/private",
    }
    own = world.a.call(OWN, '{"text": "x"}', {**forged, "content-type": "application/json"})
    assert (own["namespace"], own["endpoint"]) == ("a", "own")
    assert (
        refusal_of(world.a.call(CALL, '{"text": "x"}', {**forged, "content-type": "application/json"}))[0]
        == "not_allowed"
    )
    structured = json.dumps(
        {
            "specversion": "1.0",
            "id": "1",
            "type": "x",
            "source": "/b/private",
            "endpoint": "/b/private",
            "data": {"text": "x"},
        }
    )
    asked = world.a.call(CALL, structured, {"content-type": "application/cloudevents+json"})
    assert refusal_of(asked)[0] == "not_allowed"


@pytest.mark.parametrize("name", ["namespace", "caller", "guideway_namespace", "tenant", "principal", "x-namespace"])
def test_no_header_makes_a_caller_somebody_else(world: World, name: str) -> None:
    assert refusal_of(world.a.call(CALL, "x", {name: "b", "endpoint": "/b/private"}))[0] == "not_allowed"


def test_a_shared_endpoint_answers_its_caller_only_on_the_callers_topic(world: World) -> None:
    before = len(world.b.read("gw.b.shared.out.v1"))
    reply = world.a.call(CALL, "hello", {"endpoint": "/b/shared"})
    assert value_of(reply)["parts"][-1][2] == "hello"
    assert len(world.b.read("gw.b.shared.out.v1")) == before


def test_a_refusal_of_a_shared_endpoint_tells_nothing_of_it(world: World) -> None:
    long = world.a.call(CALL, "y" * 100_000, {"endpoint": "/b/shared"})
    assert refusal_of(long)[0] == "text_too_long"
    with_guidance = world.a.call(CALL, "x", {"endpoint": "/b/shared", "guidance": "b/prompt"})
    assert "prompt" not in refusal_of(with_guidance)[1].replace("b/prompt", "")


# Replies to others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["reply_to", "kafka_replyTopic", "REPLY_TOPIC"])
@pytest.mark.parametrize("through", [OWN, CALL])
def test_a_reply_address_of_b_is_refused(world: World, header: str, through: str) -> None:
    before = len(world.b.read("gw.b.private.out.v1"))
    headers = {header: "gw.b.private.out.v1", "endpoint": "/b/shared"}
    assert refusal_of(world.a.call(through, "x", headers))[0] == "reply_address_refused"
    assert len(world.b.read("gw.b.private.out.v1")) == before


@pytest.mark.parametrize(
    "topic",
    [
        *(
            "gw.infer.tiny.interactive.v1",
            "gw.public.catalogue.v1",
            "gw.a.catalogue.v1",
            "gw.audit.v1",
            "gw.a.own.in.v1",
        ),
        *("gw.b.gateway.out.v1", "gw.a.gateway.partial.v1", "gw.a.accepted.v1", "gw.keys.v1", "gw.routed.v1"),
        *("gw.calibrations.v1", "gw.ab.private.out.v1", "gw.a.own.out.v1.dlq", "gw.a.x/../../b.private.out.v1"),
        *("gw.а.own.out.v1", "gw.A.own.out.v1", "__consumer_offsets", "gw.a.own.out.v1\n", " gw.a.own.out.v1"),
    ],
)
def test_a_reply_address_that_is_none_is_refused(world: World, topic: str) -> None:
    reply = world.a.call(OWN, "x", {"reply_to": topic})
    if reply["schema"] == "guideway.reply.failed.v1":
        assert refusal_of(reply)[0] in {"reply_address_refused", "invalid_header"}
    else:
        # Blanks around a name are no part of it: it is A's own.
        assert topic.strip() == "gw.a.own.out.v1"


# Guidance and sets of others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["b/prompt", "b/prompt@1", "b/soft", "b/soft*2", "b/../b/prompt", "b/Prompt", "b/none"]
)
def test_a_guidance_header_brings_nothing_of_b(world: World, name: str) -> None:
    code, message = refusal_of(world.a.call(OWN, "x", {"guidance": name}))
    assert code in {"guidance_forbidden", "guidance_unknown", "invalid_header"}
    assert "B's" not in message


@pytest.mark.parametrize("asked", ['{"samples": 16}', '{"max_tokens": 32768}', '{"temperature": 10}', '{"seed": 1}'])
def test_a_generation_header_gets_no_more_than_b_lets_a_request_have(world: World, asked: str) -> None:
    code, message = refusal_of(world.a.call(CALL, "x", {"endpoint": "/b/shared", "generation": asked}))
    assert code == "generation_refused"
    assert "leave it out" in message


# Ids and cancellations -----------------------------------------------------------------------------------------------


def test_a_cancels_nothing_of_b(world: World) -> None:
    id_ = uuid.uuid4().hex
    with world.b.listening("gw.b.private.out.v1") as next_reply:
        world.b.send(PRIVATE, "ms=2500", {"request_id": id_, "correlation_id": id_})
        time.sleep(0.7)
        world.a.send(OWN, None, {"cancel": id_})
        world.a.send(CALL, None, {"cancel": id_, "endpoint": "/b/private"})
        world.a.send(CALL, None, {"cancel": id_, "endpoint": "/b/shared"})
        while (message := next_reply(30)) is not None:
            if dict(message.headers() or []).get("correlation_id") == id_.encode():
                assert dict(message.headers())["guideway_status"] == b"completed"
                return
    raise AssertionError("B's request was not answered")


def test_a_cannot_cancel_ahead_what_b_will_send(world: World) -> None:
    id_ = uuid.uuid4().hex
    for _ in range(3):
        world.a.send(CALL, None, {"cancel": id_, "endpoint": "/b/shared"})
        world.a.send(OWN, None, {"cancel": id_})
    value_of(world.b.call(PRIVATE, "x", {"request_id": id_}))


def test_the_same_id_and_correlation_as_bs_gets_each_its_own_answer(world: World) -> None:
    id_ = uuid.uuid4().hex
    with world.a.listening("gw.a.own.out.v1") as of_a, world.b.listening("gw.b.private.out.v1") as of_b:
        world.b.send(PRIVATE, "ms=800 of B", {"request_id": id_, "correlation_id": id_})
        world.a.send(OWN, "ms=800 of A", {"request_id": id_, "correlation_id": id_})
        a, b = of_a(30), of_b(30)
    assert a is not None
    assert b is not None
    assert b"of A" in a.value()
    assert SECRET.encode() not in a.value()
    assert b"of B" in b.value()
    assert b"of A" not in b.value()


def test_a_repeated_id_of_b_is_not_answered_from_what_b_was_told(world: World) -> None:
    id_ = uuid.uuid4().hex
    world.b.call(PRIVATE, "a question of B's", {"request_id": id_})
    told = value_of(world.a.call(OWN, "a question of B's", {"request_id": id_}))
    assert SECRET not in json.dumps(told)


# Exhausting ----------------------------------------------------------------------------------------------------------


def test_a_hundred_slow_events_do_not_keep_b_waiting(world: World) -> None:
    world.a.send_all(OWN, [(f"{number}", f"ms=300 {number}".encode()) for number in range(100)])
    began = time.monotonic()
    value_of(world.b.call(PRIVATE, "x"))
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "make",
    [
        lambda: ("x" * 900_000, {}),
        lambda: ("x", {f"h{number}": "y" * 500 for number in range(900)}),
        lambda: ("x", {"traceparent": "y" * 500_000}),
        lambda: ("[" * 400_000, {"content-type": "application/json"}),
        lambda: (json.dumps({"text": "\\ud800" * 1000}), {"content-type": "application/json"}),
        lambda: (b"\x00\x00\x00\x00\x07" + b"\xff" * 100_000, {"content-type": "application/x-protobuf"}),
        lambda: (gzip.compress(b"0" * 50_000_000), {"content-encoding": "gzip"}),
    ],
    ids=["a long text", "900 headers", "a huge header", "depth", "half characters", "bytes", "gzip in gzip"],
)
def test_an_awkward_event_is_answered_and_b_is_too(
    world: World, make: Callable[[], tuple[bytes | str, dict[str, str]]]
) -> None:
    value, headers = make()
    reply = world.a.call("gw.a.short.in.v1", value, headers)
    if value == "x":
        value_of(reply)
    else:
        refusal_of(reply)
    value_of(world.b.call(PRIVATE, "x"))


def test_more_headers_than_are_read_are_answered(world: World) -> None:
    many = {f"h{number}": "y" * 500 for number in range(1500)}
    assert refusal_of(world.a.call("gw.a.short.in.v1", "x", many))[0] == "text_too_long"


def test_a_batch_that_inflates_a_thousandfold_stops_nobody(world: World) -> None:
    world.a.send(
        "gw.a.short.in.v1",
        b"0" * 7_000_000,
        {"request_id": "bomb"},
        settings={"compression.type": "gzip", "message.max.bytes": 8_000_000},
    )
    value_of(world.b.call(PRIVATE, "x"))


def test_who_kills_the_engine_is_answered_that_and_b_is_served(world: World) -> None:
    id_ = uuid.uuid4().hex
    with world.a.listening("gw.a.own.out.v1") as of_a:
        world.a.send(OWN, "do=die", {"request_id": id_, "correlation_id": id_})
        answers = [value_of(world.b.call(PRIVATE, "x", timeout_s=60)) for _ in range(3)]
        assert len(answers) == 3
        while (message := of_a(60)) is not None:
            if dict(message.headers() or []).get("correlation_id") == id_.encode():
                assert refusal_of(json.loads(message.value()))[0] == "engine_failed"
                return
    raise AssertionError("A was not answered")


def test_two_hundred_refusals_keep_nobody_waiting(world: World) -> None:
    world.a.send_all(CALL, [(f"{number}", b"x") for number in range(200)])
    began = time.monotonic()
    value_of(world.b.call(PRIVATE, "x"))
    assert time.monotonic() - began < 15
