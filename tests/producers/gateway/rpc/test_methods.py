"""What all gRPC methods have in common, on a server of gRPC, without a broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.gateway import GatewaySettings
from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.room import Room
from guideway.producers.gateway.rpc import methods as methods_module
from guideway.producers.gateway.rpc.asked import read_metadata
from guideway.producers.gateway.rpc.methods import Asking, Methods, longest_s
from guideway.producers.gateway.rpc.server import _options
from guideway.schemas.protobuf.messages import message

LARGE = 1_000_000
FEW_BYTES = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**16), ("grpc.use_local_subchannel_pool", 1)]


class Served:
    """A method with one answer, of as many bytes as the request's id says."""

    def __init__(self, room: Room, port: int) -> None:
        self.room, self.port = room, port
        self.over = asyncio.Event()
        """Set when gRPC is done with a call."""

    @contextlib.asynccontextmanager
    async def asked(self, namespace: str, size: int) -> AsyncIterator[Any]:
        """A call on a connection of its own, as the answers that come."""
        async with aio.insecure_channel(f"127.0.0.1:{self.port}", options=FEW_BYTES) as channel:
            method = channel.unary_stream(
                "/s/Get",
                request_serializer=message("guideway.v1.GetRequest").SerializeToString,
                response_deserializer=message("guideway.v1.GetResponse").FromString,
            )
            yield method(message("guideway.v1.GetRequest")(id=str(size)), metadata=(("x-api-key", namespace),))

    async def code(self, namespace: str, size: int) -> grpc.StatusCode:
        async with self.asked(namespace, size) as call:
            with contextlib.suppress(aio.AioRpcError):
                assert [len(one.in_progress.endpoint) async for one in call] == [size]
            code: grpc.StatusCode = await call.code()
            return code


@contextlib.asynccontextmanager
async def served(send_timeout_s: float, **limits: Any) -> AsyncIterator[Served]:
    async def caller(_authorization: object, keys: Any) -> Caller:
        return Caller(keys[0], "key")

    async def answer(asked: Any, asking: Any) -> Any:
        asking._context.add_done_callback(lambda _context: made.over.set())
        response = message("guideway.v1.GetResponse")()
        response.in_progress.endpoint = "x" * int(asked.id)
        return response

    room = Room(most=10, most_of_one=10, most_bytes=4 * LARGE, most_bytes_of_one=3 * LARGE)
    settings = GatewaySettings(cluster=Cluster("nowhere:1"), send_timeout_s=send_timeout_s, **limits)
    gateway: Any = SimpleNamespace(room=room, settings=settings, identities=SimpleNamespace(caller=caller))
    server = aio.server(options=_options(settings))
    method = Methods(gateway).unary("guideway.v1.GetRequest", answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"Get": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    made = Served(room, port)
    try:
        yield made
    finally:
        await server.stop(0)


async def until(room: Room, least: int) -> None:
    async with asyncio.timeout(20):
        while room._held_bytes < least:
            await asyncio.sleep(0.01)


async def test_an_answer_that_nobody_reads_is_counted_and_only_its_namespace_is_refused() -> None:
    async with served(30) as made, made.asked("shop", LARGE), made.asked("shop", LARGE):
        await until(made.room, 2 * LARGE)
        assert await made.code("shop", LARGE) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await made.code("other", LARGE) is grpc.StatusCode.OK
        assert await made.code("shop", 1000) is grpc.StatusCode.OK
        assert await made.code("other", 1000) is grpc.StatusCode.OK


async def test_what_is_read_is_counted_no_more() -> None:
    async with served(30) as made:
        assert await made.code("shop", LARGE) is grpc.StatusCode.OK
        assert made.room._held_bytes == 0


async def test_calls_that_nobody_reads_take_no_room_of_others() -> None:
    """Each is counted with more than its answer, and a namespace may have more calls than fit into its part so."""
    room = Room(most=100, most_of_one=100, most_bytes=2**20, most_bytes_of_one=2**19)
    context = SimpleNamespace(time_remaining=lambda: None)
    for _ in range(100):
        asking = Asking(context, read_metadata(()), "shop", room.held("shop"))
        asking.left_unread(300, 30.0)
        asking.close()
    room.held("other")(2**18)
    assert room._held_of["shop"] > 2**18


async def test_an_answer_that_was_not_read_in_time_is_counted_for_as_long_as_grpc_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods_module, "longest_s", lambda _settings: 3.0)
    async with served(1.0) as made, made.asked("shop", LARGE) as unread:
        await until(made.room, LARGE + 2**14)
        assert await made.code("other", LARGE) is grpc.StatusCode.OK
        assert made.room._held_bytes > LARGE
        async with asyncio.timeout(20):
            while made.room._held_bytes:
                await asyncio.sleep(0.05)
        with pytest.raises(aio.AioRpcError, match="not read in time"):
            async for _ in unread:
                pass


async def test_a_call_that_nobody_reads_lasts_no_longer_than_its_connection() -> None:
    async with served(0.3, connection_s=1.0, max_wait_s=0.1) as made, made.asked("shop", LARGE):
        await until(made.room, LARGE)
        await asyncio.wait_for(made.over.wait(), 15)
    assert longest_s(GatewaySettings(cluster=Cluster("nowhere:1"))) < 600
