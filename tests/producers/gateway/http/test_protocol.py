"""What the HTTP door does where clients do not read, leave, or ask for the head alone. Without brokers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router
from structlog.testing import capture_logs
from tests.producers.gateway.rpc.test_server import write_certificate
from uvicorn.server import ServerState

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.app import make_app
from guideway.producers.gateway.http.guard import Guard, caller_of
from guideway.producers.gateway.http.paths import Path
from guideway.producers.gateway.http.protocol import patient_protocol
from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.room import Room

BODY = b"x" * 2**23
UNREAD_S = 4
"""Until a client that does not read is given up. In a fourth of it others have answers, if the machine is idle."""
HEAD = {"type": "http", "method": "POST", "path": "/a/b", "headers": []}


def guarded(*, closed: bool) -> Any:
    """Of a gateway, what its guard looks at."""
    settings = SimpleNamespace(open_to=None, send_timeout_s=1.0, max_header_bytes=32_768)
    return SimpleNamespace(settings=settings, room=SimpleNamespace(closed=closed))


async def test_a_connection_is_ended_whose_client_does_not_read() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": BODY})

    lost = asyncio.Event()

    class Told(patient_protocol(10, 0.2)):  # type: ignore[misc]
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=0)
    config.load()
    server = await asyncio.get_running_loop().create_server(lambda: Told(config, ServerState(), {}), "127.0.0.1", 0)
    async with server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(server.sockets[0].getsockname())
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            async with asyncio.timeout(20):
                await lost.wait()


@pytest.mark.parametrize("tls", [False, True])
async def test_what_a_client_does_not_read_is_counted_until_it_is_gone_and_only_its_namespace_waits(
    tls: bool, tmp_path: FilePath
) -> None:
    of_server = of_client = None
    if tls:
        certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
        write_certificate(certificate, key)
        of_server, of_client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
        of_server.load_cert_chain(certificate, key)
        of_client.check_hostname, of_client.verify_mode = False, ssl.CERT_NONE
    room = Room(most=10, most_of_one=10, most_bytes=3 * len(BODY), most_bytes_of_one=2 * len(BODY) - 1)

    async def caller(_authorization: object, keys: list[str]) -> Caller:
        return Caller(keys[0], "key")

    settings = GatewaySettings(cluster=Cluster("nowhere:1"), send_timeout_s=UNREAD_S)
    gateway: Any = SimpleNamespace(settings=settings, room=room, identities=SimpleNamespace(caller=caller))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await caller_of(Request(scope), gateway)
        await Response(BODY)(scope, receive, send)

    made: list[Any] = []

    class Told(patient_protocol(10, UNREAD_S)):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            made.append(transport)

    config = uvicorn.Config(Guard(app, gateway), ws="none", lifespan="off", log_config=None)
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: Told(config, ServerState(), {}), "127.0.0.1", 0, ssl=of_server
    )
    address = server.sockets[0].getsockname()

    async def status(namespace: str) -> int:
        async with httpx.AsyncClient(trust_env=False, verify=of_client or False) as client:
            scheme = "https" if tls else "http"
            answer = await client.get(f"{scheme}://127.0.0.1:{address[1]}/a", headers={"x-api-key": namespace})
            assert answer.status_code != 200 or answer.content == BODY
            return answer.status_code

    async with server:
        with contextlib.ExitStack() as closing:
            client = closing.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(client.connect, address)
            if of_client is not None:
                client = closing.enter_context(await asyncio.to_thread(of_client.wrap_socket, client))
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nx-api-key: shop\r\n\r\n")
            async with asyncio.timeout(20):
                while not room._held_bytes:
                    await asyncio.sleep(0.01)
                assert await status("shop") == 429
                assert await status("other") == 200
                assert 0 < made[0].get_write_buffer_size() <= 2**16 + 1000
                assert room._held_bytes == len(BODY)
                while room._held_bytes:
                    await asyncio.sleep(0.01)
                assert await status("shop") == 200


async def test_a_client_that_leaves_amid_its_body_is_no_fault_of_ours() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ClientDisconnect

    async def nothing(*_given: Any) -> Any:
        raise AssertionError("nobody is there")

    with capture_logs() as told:
        await Guard(app, guarded(closed=False))(dict(HEAD), nothing, nothing)
    assert told == []


@pytest.mark.parametrize("closed", [True, False])
async def test_who_waits_when_the_gateway_ends_is_told_so(closed: bool) -> None:
    began, sent = asyncio.Event(), []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    async def nothing() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        sent.append(message)

    task = asyncio.create_task(Guard(app, guarded(closed=closed))(dict(HEAD), nothing, send))
    await began.wait()
    task.cancel()
    await asyncio.wait({task})
    if not closed:
        assert task.cancelled()
        assert sent == []
        return
    assert [one.get("status") for one in sent] == [503, None]
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert b'"code":"busy"' in sent[1]["body"]


async def test_what_answers_get_answers_head() -> None:
    async def get(_request: Request) -> Response:
        return Response(b"{}")

    transport = httpx.ASGITransport(Router([Path("/a", {"GET": get}), Path("/b", {"POST": get})]))
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        assert (await client.head("/a")).status_code == 200
        refused = await client.head("/b")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert (await client.put("/a")).headers["allow"] == "GET, HEAD"
    app = make_app(Gateway(GatewaySettings(cluster=Cluster("127.0.0.1:1"))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        # Each door tells it in its own form.
        refused = await client.get("/v1/chat/completions")
        assert (refused.headers["allow"], refused.json()["error"]["code"]) == ("POST", "method_not_allowed")
        refused = await client.post("/v2")
        assert (refused.headers["allow"], refused.json()["code"]) == ("GET, HEAD", "method_not_allowed")
        assert "error" in refused.json()
