"""The native paths, over real connections to a real gateway, in front of a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest
import pytest_asyncio
from tests.conftest import ONE_OF_KINDS
from tests.producers.gateway.answering import Answering
from tests.producers.gateway.http.serving import Door, door, ground

from guideway.infra.local_broker import RunningBroker
from guideway.producers.gateway.call import new_id
from guideway.schemas.names import header
from guideway.schemas.names.topics import call_topic
from guideway.schemas.wire import REPLY

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.broker]
A, B = "shop", "shop-b"


class Stage(NamedTuple):
    services: Answering
    one: Door
    two: Door


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ONE_OF_KINDS)
async def stage(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> AsyncIterator[Stage]:
    cluster = broker_of_kind(request.param).cluster
    short = {"header_timeout_s": 1.0, "body_timeout_s": 1.0, "idle_timeout_s": 1.0, "keep_alive_s": 0.1}
    async with contextlib.AsyncExitStack() as stack:
        services, keys = await stack.enter_async_context(ground(cluster, A, B))
        one = await stack.enter_async_context(door(cluster, keys, max_body_bytes=10_000, **short))
        two = await stack.enter_async_context(door(cluster, keys, **short))
        yield Stage(services, one, two)


async def test_a_reply_comes_back_as_it_is(stage: Stage) -> None:
    got = await stage.one.post(A, "/shop/mood", "Good soup.")
    assert (got.status_code, got.headers["content-type"]) == (200, "application/json")
    reply = REPLY.decode(got.content)
    assert reply.value == "Good soup."
    assert got.headers["x-request-id"] == reply.id
    event = stage.services.seen[-1]
    assert event.topic == call_topic(A)
    assert event.header(header.ENDPOINT) == b"/shop/mood"
    assert event.header(header.CONTENT_TYPE) == b"text/plain"
    assert event.header(header.DEADLINE) is not None
    assert "location" not in got.headers


async def test_generation_parameters_reach_the_event(stage: Stage) -> None:
    for given in ('{"max_tokens": 5}', "five"):
        assert (await stage.one.post(A, "/shop/mood", "Good soup.", generation=given)).status_code == 200
        assert stage.services.seen[-1].header(header.GENERATION) == given.encode()


async def test_the_callers_namespace_is_its_keys_wherever_the_path_leads(stage: Stage) -> None:
    got = await stage.one.post(B, "/shop/mood", "mine")
    assert got.status_code == 200
    assert stage.services.seen[-1].topic == call_topic(B)


async def test_the_router_is_asked_without_an_endpoint(stage: Stage) -> None:
    for path in ("/", "/shop/call"):
        assert (await stage.one.post(A, path, "where to?")).status_code == 200
        assert stage.services.seen[-1].header(header.ENDPOINT) is None
    got = await stage.one.post(B, "/shop/call", "where to?")
    assert (got.status_code, got.json()["code"]) == (404, "unknown_path")


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [("missing_field", 400, None), ("not_allowed", 403, None), ("unknown_endpoint", 404, None),
     ("text_too_long", 413, None), ("quota_exceeded", 429, "10"), ("engine_failed", 500, None),
     ("unknown_model_size", 503, "30"), ("deadline_exceeded", 504, "1")],
)  # fmt: skip
async def test_a_failure_is_a_problem_document(stage: Stage, code: str, status: int, again: str | None) -> None:
    got = await stage.one.post(A, "/shop/mood", f"fail {code}")
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    assert got.headers.get("retry-after") == again
    told = got.json()
    assert (told["code"], told["status"], told["detail"]) == (code, status, "change it")
    assert told["id"] == got.headers["x-request-id"]


async def test_what_is_accepted_at_one_gateway_is_found_at_the_other(stage: Stage) -> None:
    began = await stage.one.post(A, "/shop/mood", "later", prefer="respond-async")
    assert (began.status_code, began.headers["retry-after"]) == (202, "1")
    place = began.headers["location"]
    got = await stage.two.client.get(place, headers=stage.two.as_(A, prefer="wait=20"))
    assert got.status_code == 200
    assert REPLY.decode(got.content).value == "later"
    assert got.headers["x-request-id"] == began.json()["id"]
    for path in (place, "/v1/requests/none", "/v1/requests/", f"/v1/requests/{'x' * 300}"):
        assert (await stage.two.client.get(path, headers=stage.two.as_(B))).status_code == 404
    gone = await stage.two.client.get(f"/v1/requests/{new_id(10**12)}", headers=stage.two.as_(B))
    assert (gone.status_code, gone.json()["code"]) == (410, "request_gone")


async def test_a_request_that_is_not_done_says_so_and_can_be_cancelled(stage: Stage) -> None:
    began = await stage.one.post(A, "/shop/mood", "hold", prefer="respond-async, wait=0")
    place = began.headers["location"]
    assert began.json()["status"] == "in progress"
    got = await stage.one.client.get(place, headers=stage.one.as_(A))
    assert (got.status_code, got.json()["status"], got.headers["location"]) == (202, "in progress", place)
    assert (await stage.one.client.delete(place, headers=stage.one.as_(B))).status_code == 404
    assert (await stage.one.client.delete(place, headers=stage.one.as_(A))).status_code == 202
    async with asyncio.timeout(20):
        while began.json()["id"] not in stage.services.cancelled:
            await asyncio.sleep(0.02)


async def test_one_idempotency_key_is_one_event(stage: Stage) -> None:
    async def send(at: Door, text: str, key: str) -> tuple[int, str]:
        got = await at.post(A, "/shop/mood", text, idempotency_key=key)
        return got.status_code, got.headers["x-request-id"]

    done = await asyncio.gather(*[send(at, "pay", key) for at in (stage.one, stage.two) for key in ('"k-1"', "k-1")])
    assert len({*done}) == 1
    assert done[0][0] == 200
    assert stage.services.times[done[0][1]] == 1
    assert (await send(stage.two, "pay more", "k-1"))[0] == 422
    for wrong in ("", '""', "x" * 201):
        assert (await send(stage.one, "pay", wrong))[0] == 400


async def test_events_end_with_the_reply(stage: Stage) -> None:
    got = await stage.one.post(A, "/shop/mood", "streamed", accept="text/event-stream")
    assert got.headers["content-type"].startswith("text/event-stream")
    *_, last, _ = got.text.split("\n\n")
    assert got.text.count("event: partial") == 1
    assert last.startswith("event: completed\ndata: ")
    assert json.loads(last.partition("data: ")[2])["samples"][0]["value"] == "streamed"


async def test_a_text_comes_piece_by_piece_and_what_was_given_up_is_taken_back(stage: Stage) -> None:
    got = await stage.two.post(A, "/shop/mood", "tell me all of it", accept="text/event-stream")
    told = [one.split("\n") for one in got.text.split("\n\n") if one.startswith("event: ")]
    names_, texts = [one[0].partition(" ")[2] for one in told], [json.loads(one[1][6:]) for one in told]
    # The first attempt's piece may be read at once with those of the second.
    begun = names_.index("restart") + 1 if "restart" in names_ else 0
    assert names_[begun:] == [*["partial"] * (len(names_) - begun - 1), "completed"]
    assert "".join(one["text"] for one in texts[begun:-1]).split() == ["tell", "me", "all", "of", "it"]
    assert texts[-1]["samples"][0]["text"] == "tell me all of it"


async def test_a_client_that_leaves_cancels(stage: Stage) -> None:
    for more in ({}, {"accept": "text/event-stream"}):
        sent = asyncio.create_task(stage.one.post(A, "/shop/mood", f"hold {more}", **more))
        async with asyncio.timeout(20):
            while stage.services.seen[-1].value != f"hold {more}".encode():
                await asyncio.sleep(0.02)
            sent.cancel()
            request_id = (stage.services.seen[-1].header(header.REQUEST_ID) or b"").decode()
            while request_id not in stage.services.cancelled:
                await asyncio.sleep(0.02)
    assert stage.one.gateway.room.total == 0
    assert stage.one.gateway.calls.waiting == 0


async def test_the_wait_is_bounded_by_the_caller(stage: Stage) -> None:
    got = await stage.one.post(A, "/shop/mood", "hold on", prefer="respond-async, wait=1")
    assert got.status_code == 202
    kept = await stage.one.post(A, "/shop/mood", "hold it", prefer="wait=1", idempotency_key="held")
    assert (kept.status_code, kept.json()["code"]) == (504, "deadline_exceeded")
    assert kept.headers["location"].startswith("/v1/requests/key-")


@pytest.mark.parametrize("left", [{"prefer": "wait=0"}, {"request_timeout": "0"}, {"deadline": "2025-01-01T00:00:00Z"}])
async def test_a_request_whose_time_is_over_is_not_published(stage: Stage, left: dict[str, str]) -> None:
    before = len(stage.services.seen)
    got = await stage.one.post(A, "/shop/mood", "too late", **left)
    assert (got.status_code, got.json()["code"]) == (504, "deadline_exceeded")
    assert "by Prefer: wait, Request-Timeout or Deadline" in got.json()["detail"]
    assert got.json()["retryable"] is False, "it would be as late"
    assert (got.headers["x-should-retry"], "retry-after" in got.headers) == ("false", False)
    assert len(stage.services.seen) == before


@pytest.mark.parametrize(
    ("path", "status"),
    [("/../shop/mood", 404), ("/shop/..%2Fmood", 404), ("/shop%2Fmood", 404), ("/shop/mood/", 404),
     ("//shop/mood", 404), ("/SHOP/mood", 404), ("/ѕhop/mood", 404), ("/shop/m%C3%B6od", 404), ("/shop/%6dood", 404),
     ("/shop", 404),
     ("/shop/mood\\", 404), ("/shop/" + "x" * 64, 404), ("/shop/mood?x=1", 200)],
)  # fmt: skip
async def test_an_endpoint_has_one_path(stage: Stage, path: str, status: int) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.one.keys[A]}\r\nContent-Type: text/plain\r\n"
    )
    got = await stage.one.raw(f"{head}Connection: close\r\nContent-Length: 2\r\n\r\nok".encode())
    # Bytes that are no ASCII are no path.
    assert int(got.split()[1]) == (status if path.isascii() else 400)


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: 2\r\nTransfer-Encoding: chunked",
     "Transfer-Encoding: chunked\r\nContent-Length: 2", "Transfer-Encoding: xchunked", "Content-Length: +2",
     "Transfer-Encoding: chunked, identity", "Content-Length : 2", "Content-Length: 2\r\n X: y",
     "Host: y\r\nContent-Length: 2"],
)  # fmt: skip
async def test_what_can_be_read_in_two_ways_is_not_read(stage: Stage, framing: str) -> None:
    before = len(stage.services.seen)
    head = f"POST /shop/mood HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.one.keys[A]}\r\n"
    got = await stage.one.raw(f"{head}{framing}\r\n\r\n0\r\n\r\nPOST /shop/mood HTTP/1.1\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 400")
    told, _, body = got.partition(b"\r\n\r\n")
    assert json.loads(body)["code"] == "bad_request"
    assert b"x-request-id: " in told
    assert got.count(b"HTTP/1.1 ") == 1
    assert len(stage.services.seen) == before


async def test_sizes_are_bounded(stage: Stage) -> None:
    assert (await stage.one.post(A, "/shop/mood", "x" * 10_000)).status_code == 200
    for content in (b"x" * 10_001, chunked(11)):
        got = await stage.one.client.post("/shop/mood", content=content, headers=stage.one.as_(A))
        assert (got.status_code, got.json()["code"]) == (413, "body_too_large")
        assert got.headers["connection"] == "close"
    told = await stage.one.raw(b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 70_000)
    assert told.startswith(b"HTTP/1.1 431")
    # h11 reads a head that comes at once, whatever its length.
    long = await stage.one.client.get("/", headers=stage.one.as_(A) | {"x-long": "y" * 100_000})
    assert (long.status_code, long.json()["code"]) == (431, "headers_too_large")
    assert "shorten the header x-long" in long.json()["detail"]


async def chunked(times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield b"y" * 1000


async def test_who_is_slow_is_not_waited_for(stage: Stage) -> None:
    head = f"POST /shop/mood HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.one.keys[A]}\r\n"
    slow = [b"", b"POST /sh", head.encode(), f"{head}Content-Length: 9\r\n\r\nab".encode()]
    closed = await asyncio.gather(*[stage.one.raw(one) for one in slow])
    assert closed[:3] == [b""] * 3
    assert closed[3].startswith(b"HTTP/1.1 400")
    assert b"did not come in time" in closed[3]
    assert stage.one.gateway.room.total == 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [({"content_type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
     ({"content_encoding": "gzip"}, 415, "unsupported_media_type"), ({"accept": "text/html"}, 406, "not_acceptable"),
     ({"deadline": "tomorrow"}, 400, "bad_request"), ({"request_timeout": "-1"}, 400, "bad_request"),
     ({"request_timeout": "1e400"}, 400, "bad_request"), ({"deadline": "2026-12-01T12:00:00"}, 400, "bad_request")],
)  # fmt: skip
async def test_what_a_head_asks_for_is_read_or_refused(
    stage: Stage, headers: dict[str, str], status: int, code: str
) -> None:
    got = await stage.one.post(A, "/shop/mood", "x", **headers)
    assert (got.status_code, got.json()["code"]) == (status, code)


async def test_two_content_types_are_not_chosen_from(stage: Stage) -> None:
    kinds = [("content-type", "text/plain"), ("content-type", "application/json")]
    got = await stage.one.client.post("/shop/mood", content="x", headers=[*stage.one.as_(A).items(), *kinds])
    assert (got.status_code, got.json()["code"]) == (400, "bad_request")
    assert "several headers content-type" in got.json()["detail"]


async def test_bytes_that_are_no_text_are_passed_on_as_they_are(stage: Stage) -> None:
    got = await stage.one.post(A, "/shop/mood", b"\xff\xfe", content_type="application/x-protobuf")
    assert got.status_code == 200
    assert stage.services.seen[-1].value == b"\xff\xfe"
    assert stage.services.seen[-1].header(header.CONTENT_TYPE) == b"application/x-protobuf"


async def test_methods_and_health(stage: Stage) -> None:
    got = await stage.one.client.get("/shop/mood", headers=stage.one.as_(A))
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    for path in ("/health/live", "/health/ready"):
        assert (await stage.one.client.get(path)).status_code == 200
    assert (await stage.one.client.post("/shop/mood", content="x")).status_code == 401


async def test_a_namespace_that_takes_all_leaves_room_to_others(stage: Stage) -> None:
    room = stage.one.gateway.room
    with contextlib.ExitStack() as taken:
        for _ in range(room._most_of_one):
            taken.enter_context(room.taken(A))
        got = await stage.one.post(A, "/shop/mood", "one more")
        assert (got.status_code, got.json()["code"]) == (429, "too_many_requests")
        assert (await stage.one.post(B, "/shop/mood", "mine")).status_code == 200
