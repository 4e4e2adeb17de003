"""Health and reflection are for everybody, so nobody who does not read may be in anybody's way. Without a broker."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guideway.producers.gateway.rpc import open_services as module
from guideway.producers.gateway.rpc.open_services import OpenServices

NOTHING_READ = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 0), ("grpc.use_local_subchannel_pool", 1)]
"""Not a byte of a stream is taken before somebody reads it."""
BESIDE = f"{tempfile.gettempdir()}/guideway-open-"
"""With a port behind it, a socket by which the same server has clients of another address."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.asynccontextmanager
async def served(longest_s: float) -> AsyncIterator[tuple[OpenServices, str]]:
    made = OpenServices(["shop.Service"], longest_s=longest_s)
    server = aio.server()
    server.add_generic_rpc_handlers(tuple(made.handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(f"unix:{BESIDE}{port}")
    await server.start()
    made.tell(is_ready=True)
    try:
        yield made, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def told(channel: aio.Channel, method: str) -> Any:
    """A call of which nothing is read before somebody asks for it."""
    serialised, read = health_pb2.HealthCheckRequest.SerializeToString, health_pb2.HealthCheckResponse.FromString
    asking = channel.unary_stream(
        f"/grpc.health.v1.Health/{method}", request_serializer=serialised, response_deserializer=read
    )
    return asking(asked())


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """The calls of which it was found that nobody reads them."""
    found: list[Exception] = []

    class Unread(Exception):
        def __init__(self) -> None:
            found.append(self)

    monkeypatch.setattr(module, "_Unread", Unread)
    monkeypatch.setattr(module, "_READ_S", 0.5)
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


async def test_who_watches_and_does_not_read_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, given_up: list[Exception]
) -> None:
    monkeypatch.setattr(module, "_AT_A_TIME", 3)
    async with (
        served(3.0) as (made, place),
        aio.insecure_channel(place, options=NOTHING_READ) as deaf,
        aio.insecure_channel(place) as channel,
    ):
        unread = health_pb2_grpc.HealthStub(deaf)
        kept = [unread.Watch(asked()) for _ in range(2)]
        health = health_pb2_grpc.HealthStub(channel)
        watching = health.Watch(asked("shop.Service"))
        assert (await watching.read()).status == SERVING
        made.tell(is_ready=False)
        assert (await watching.read()).status == NOT_SERVING
        # They are counted for as long as gRPC keeps them, and watchers take no places of those who only ask.
        await until(lambda: len(given_up) == 2)
        assert made._taken["watch"] == 3
        refused = health.Watch(asked())
        with pytest.raises(aio.AioRpcError) as raised:
            await refused.read()
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await health.Check(asked())).status == NOT_SERVING
        await until(lambda: made._taken["watch"] == 1)
        with pytest.raises(aio.AioRpcError, match="was not read"):
            async for _ in kept[0]:
                pass


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_one_address_has_a_part_of_the_places_only(
    monkeypatch: pytest.MonkeyPatch, given_up: list[Exception], method: str
) -> None:
    """What is not read is kept as long as its connection: who does not read is in nobody else's way."""
    monkeypatch.setattr(module, "_AT_A_TIME_OF_ONE", {"check": 2, "watch": 2})
    async with (
        served(60.0) as (made, place),
        aio.insecure_channel(place, options=NOTHING_READ) as deaf,
        aio.insecure_channel(place) as channel,
        aio.insecure_channel(f"unix:{BESIDE}{place.rpartition(':')[2]}") as other,
    ):
        unread = [told(deaf, method) for _ in range(2)]
        await until(lambda: len(given_up) == 2)
        with pytest.raises(aio.AioRpcError) as raised:
            await told(channel, method).read()
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await told(other, method).read()).status == SERVING
        assert made._taken[method.lower()] >= 2
        for call in unread:
            call.cancel()


async def test_of_a_service_that_there_is_not_each_method_says_so() -> None:
    async with served(1.0) as (made, place), aio.insecure_channel(place) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(aio.AioRpcError) as raised:
            await health.Check(asked("shop.Other"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        watching = health.Watch(asked("shop.Other"))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        made.tell(is_ready=False)
        assert (await health.Check(asked("shop.Service"))).status == NOT_SERVING
