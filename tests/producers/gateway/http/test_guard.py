"""Around all paths: what is sent to clients that do not read is bounded."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.guard import Guard, caller_of
from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.room import Room


async def test_of_a_file_that_is_sent_in_pieces_one_piece_counts() -> None:
    room = Room(most=10, most_of_one=10, most_bytes=20_000_000, most_bytes_of_one=10_000_000)

    async def caller(_authorization: object, keys: list[str]) -> Caller:
        return Caller(keys[0], "key")

    settings = GatewaySettings(cluster=Cluster("nowhere:1"))
    gateway = cast(Gateway, SimpleNamespace(settings=settings, room=room, identities=SimpleNamespace(caller=caller)))
    held = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await caller_of(Request(scope), gateway)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"800000000")]})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 300_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            held.append(room._held_bytes)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    head = [(b"host", b"127.0.0.1"), (b"x-api-key", b"shop")]
    await Guard(app, gateway)({"type": "http", "method": "GET", "path": "/", "headers": head}, receive, send)
    assert {*held} == {300_000}
    assert room._held_bytes == 0


async def test_responses_that_nobody_reads_are_counted_until_they_are_gone() -> None:
    room = Room(most=10, most_of_one=10, most_bytes=250_000, most_bytes_of_one=220_000)

    async def caller(_authorization: object, keys: list[str]) -> Caller:
        return Caller(keys[0], "key")

    settings = GatewaySettings(cluster=Cluster("nowhere:1"), send_timeout_s=30)
    identities = SimpleNamespace(caller=caller)
    gateway = cast(Gateway, SimpleNamespace(settings=settings, room=room, identities=identities))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await caller_of(Request(scope), gateway)
        await Response(b"x" * (100_000 if scope["path"] == "/large" else 10_000))(scope, receive, send)

    guard, reads = Guard(app, gateway), asyncio.Event()

    async def get(path: str, namespace: str, *, reading: bool = True) -> int:
        status: list[int] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            elif not reading:
                await reads.wait()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        head = [(b"host", b"127.0.0.1"), (b"x-api-key", namespace.encode())]
        await guard({"type": "http", "method": "GET", "path": path, "headers": head}, receive, send)
        return status[0]

    unread = [asyncio.create_task(get("/large", "shop", reading=False)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await get("/large", "shop") == 429
    assert await get("/large", "other") == 503
    assert await get("/small", "shop") == 200
    reads.set()
    assert await asyncio.gather(*unread) == [200, 200]
    assert await get("/large", "shop") == 200
    assert room._held_bytes == 0


async def test_a_long_header_that_comes_at_once_is_refused_and_named() -> None:
    """h11 bounds a head only while it is incomplete."""
    room = Room(most=10, most_of_one=10, most_bytes=10, most_bytes_of_one=10)
    settings = GatewaySettings(cluster=Cluster("nowhere:1"))
    gateway = cast(Gateway, SimpleNamespace(settings=settings, room=room))
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it is not asked")

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    head = [(b"host", b"127.0.0.1"), (b"content-type", b"text/plain; x=" + b"y" * 100_000)]
    await Guard(app, gateway)({"type": "http", "method": "GET", "path": "/", "headers": head}, receive, send)
    assert sent[0]["status"] == 431
    assert b"100,0" in sent[1]["body"]
    assert b"shorten the header content-type" in sent[1]["body"]
