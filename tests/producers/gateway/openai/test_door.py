"""The paths in OpenAI's form, over real connections, in front of a broker and of answers that are made up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.conftest import ONE_OF_KINDS
from tests.producers.gateway.answering import Answering
from tests.producers.gateway.http.serving import Door, door, ground

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.writing import publish
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.topics import call_topic
from guideway.schemas.output import Choice, Text

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.broker]
SHOP, DESK = "shop", "desk"
WRITE = Endpoint(namespace=SHOP, name="write", model_size="small", output=Text())
MOOD = Endpoint(namespace=SHOP, name="mood", model_size="small", output=Choice(labels=["a", "b"]), access=[DESK])


class Stage(NamedTuple):
    services: Answering
    door: Door

    async def chat(self, text: str, *, namespace: str = SHOP, model: str = "shop/write", **more: Any) -> httpx.Response:
        asked = {"model": model, "messages": [{"role": "user", "content": text}]} | more
        return await self.door.client.post("/v1/chat/completions", json=asked, headers=self.door.as_(namespace))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ONE_OF_KINDS)
async def stage(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> AsyncIterator[Stage]:
    cluster = broker_of_kind(request.param).cluster
    async with contextlib.AsyncExitStack() as stack:
        services, keys = await stack.enter_async_context(ground(cluster, SHOP, DESK))
        await make_topics(cluster, topics.catalogues([SHOP]))
        await publish(cluster, plan_changes(Catalogue(), [WRITE, MOOD]))
        limits = {"keep_alive_s": 0.05, "max_requests_of_one": 2}
        yield Stage(services, await stack.enter_async_context(door(cluster, keys, **limits)))


async def test_a_chat_is_an_event_of_the_callers_namespace(stage: Stage) -> None:
    got = await stage.chat("Good soup.", namespace=DESK, model="shop/mood", temperature=0.5)
    assert got.status_code == 200
    assert got.json()["choices"][0]["message"]["content"] == "Good soup."
    event = stage.services.seen[-1]
    assert event.topic == call_topic(DESK)
    assert (event.value, event.header(header.CONTENT_TYPE)) == (b"Good soup.", b"text/plain; charset=utf-8")
    assert event.header(header.ENDPOINT) == b"/shop/mood"
    assert event.header(header.GENERATION) == b'{"temperature":0.5}'
    assert event.header(header.DEADLINE) is not None
    assert got.headers["x-request-id"] == (event.header(header.REQUEST_ID) or b"").decode()


async def test_who_is_nobody_is_told_so_in_openais_form(stage: Stage) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions")):
        for headers in ({}, {"authorization": "Bearer gw_none"}):
            got = await stage.door.client.request(method, path, headers=headers)
            assert got.status_code == 401
            assert (got.json()["error"]["code"], got.json()["error"]["type"]) == (
                "unauthenticated",
                "authentication_error",
            )


@pytest.mark.parametrize(
    ("code", "status", "told", "again"),
    [("text_too_long", 400, "context_length_exceeded", None), ("quota_exceeded", 429, "quota_exceeded", "10"),
     ("engine_failed", 500, "engine_failed", None), ("unknown_endpoint", 404, "model_not_found", None)],
)  # fmt: skip
async def test_a_failure_has_its_status_also_where_a_stream_is_wanted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, code: str, status: int, told: str, again: str | None
) -> None:
    # A stream that has begun has its status already, and on a slow machine it begins before the reply comes.
    gateway = stage.door.gateway
    monkeypatch.setattr(gateway, "settings", msgspec.structs.replace(gateway.settings, keep_alive_s=60.0))
    for stream in (False, True):
        got = await stage.chat(f"fail {code}", stream=stream)
        assert (got.status_code, got.headers.get("retry-after")) == (status, again)
        assert got.headers["content-type"] == "application/json"
        assert (got.json()["error"]["code"], got.json()["error"]["message"]) == (told, "change it")
        assert got.headers["x-request-id"] == (stage.services.seen[-1].header(header.REQUEST_ID) or b"").decode()


@contextlib.asynccontextmanager
async def held(stage: Stage, **more: Any) -> AsyncIterator[httpx.Response]:
    """A stream whose answer is held back."""
    asked = {"model": "shop/write", "messages": [{"role": "user", "content": "hold"}], "stream": True} | more
    client = stage.door.client
    async with client.stream("POST", "/v1/chat/completions", json=asked, headers=stage.door.as_(SHOP)) as got:
        yield got


async def test_a_client_that_goes_away_has_its_request_cancelled(stage: Stage) -> None:
    async with held(stage) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        lines = got.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        request_id = got.headers["x-request-id"]
        # It counts as long as it lasts.
        async with held(stage):
            full = await stage.chat("Hello")
            assert (full.status_code, full.json()["error"]["code"]) == (429, "too_many_requests")
    async with asyncio.timeout(30):
        while request_id not in stage.services.cancelled:
            await asyncio.sleep(0.02)


async def test_a_stream_ends_with_an_error_where_the_reply_is_one(stage: Stage) -> None:
    async with held(stage) as got:
        lines = got.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        stage.services.cancelled.append(got.headers["x-request-id"])
        stage.services.release()
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "cancelled"
    assert "data: [DONE]" not in rest


async def test_the_same_key_is_one_piece_of_work(stage: Stage) -> None:
    headers = stage.door.as_(SHOP, idempotency_key="once")
    asked = {"model": "shop/write", "prompt": "Good soup."}
    first, again = [await stage.door.client.post("/v1/completions", json=asked, headers=headers) for _ in range(2)]
    assert first.json()["id"] == again.json()["id"]
    other = await stage.door.client.post("/v1/completions", json=asked | {"n": 2}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


async def test_a_browser_shows_its_key_as_a_password(stage: Stage) -> None:
    client, key = stage.door.client, stage.door.keys[DESK]
    nobody = await client.get("/docs")
    assert nobody.status_code == 401
    assert nobody.headers["www-authenticate"].startswith("Basic realm=")
    password = base64.b64encode(f"anybody:{key}".encode()).decode()
    for path in ("/docs", "/openapi.json"):
        got = await client.get(path, headers={"authorization": f"Basic {password}"})
        assert got.status_code == 200
        assert "/shop/mood" in got.text
        assert "/shop/write" not in got.text
        for wrong in ("Basic", "Basic !", f"Basic {base64.b64encode(b'a:b').decode()}", "Digest x"):
            assert (await client.get(path, headers={"authorization": wrong})).status_code == 401
    # Nothing else takes it: a browser sends it by itself, also for what pages of others ask.
    call = await client.post("/shop/mood", content="x", headers={"authorization": f"Basic {password}"})
    assert call.status_code == 401
