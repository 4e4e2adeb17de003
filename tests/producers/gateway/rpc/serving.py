"""A gateway with the door in gRPC on a port of this machine, before a general address that is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from tests.producers.gateway.answering import Answering
from tests.producers.gateway.http.serving import ground

from guideway.infra.local_broker import RunningBroker
from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.server import Listen
from guideway.producers.gateway.rpc.server import RpcServer
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.schemas.output import Text
from guideway.schemas.protobuf.messages import message
from guideway.schemas.wire import CATALOGUE_ENTRY

ENDPOINTS = "/guideway.v1.Endpoints/"


class Door:
    """A running gateway with the door in gRPC, and a client of it."""

    def __init__(self, server: RpcServer, services: Answering, namespace: str, key: str, channel: aio.Channel) -> None:
        self.server = server
        self.services = services
        self.namespace = namespace
        self.key = key
        self.metadata = (("authorization", f"Bearer {key}"),)
        self.channel = channel

    def call(self, method: str, request: str, answer: str, given: Any, **more: Any) -> Any:
        asked = self.channel.unary_unary(
            method,
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=message(answer).FromString,
        )
        sent = given if isinstance(given, bytes) else message(request)(**given)
        options: dict[str, Any] = {"metadata": self.metadata, "timeout": 30} | more
        return asked(sent, **options)

    def run(self, *, metadata: tuple[tuple[str, str], ...] = (), event: Any = None, **more: Any) -> Any:
        given = {"event": {"endpoint": "/shop/mood"} | (event or {})}
        return self.call(
            f"{ENDPOINTS}Run",
            "guideway.v1.RunRequest",
            "guideway.v1.RunResponse",
            given,
            metadata=(*self.metadata, *metadata),
            **more,
        )

    async def begun(self, event: dict[str, str], **more: Any) -> tuple[Any, str]:
        """(a call that runs, its request's id), once its event is read."""
        before = len(self.services.seen)
        # A call of this client begins when its task gets its turn.
        call = self.run(event=event, **more)
        await until(lambda: len(self.services.seen) > before)
        return call, (self.services.seen[-1].header(header.REQUEST_ID) or b"").decode()

    def stream(self, channel: aio.Channel | None = None) -> Any:
        """The method `RunStream`, on this channel or the usual one."""
        return (channel or self.channel).unary_stream(
            f"{ENDPOINTS}RunStream",
            request_serializer=message("guideway.v1.RunStreamRequest").SerializeToString,
            response_deserializer=message("guideway.v1.RunStreamResponse").FromString,
        )

    def other(self, method: str, **fields: Any) -> Any:
        name = f"guideway.v1.{method}"
        return self.call(f"{ENDPOINTS}{method}", f"{name}Request", f"{name}Response", fields)


@contextlib.asynccontextmanager
async def running(
    broker: RunningBroker, namespace: str, listen: Listen | None = None, **limits: Any
) -> AsyncIterator[Door]:
    fields = {"text": Field(), "count": Field(type="integer", required=False)}
    endpoint = Endpoint(
        namespace=namespace, name="mood", model_size="small", output=Text(), input=InputRule(fields=fields)
    )
    async with contextlib.AsyncExitStack() as stack:
        services, keys = await stack.enter_async_context(ground(broker.cluster, namespace))
        settings = GatewaySettings(cluster=broker.cluster, **limits)
        gateway = await stack.enter_async_context(Gateway(settings))
        entry = (f"endpoint/{namespace}/mood@1".encode(), CATALOGUE_ENTRY.encode(endpoint))
        gateway.catalogue_reader.catalogue.absorb(catalogue_topic(namespace), *entry)
        server = RpcServer(gateway, listen or Listen(host="127.0.0.1", port=0))
        await server.start()
        serving = asyncio.create_task(server.run())
        channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{server.port}"))
        try:
            yield Door(server, services, namespace, keys[namespace], channel)
        finally:
            server.stop()
            services.release()
            await serving


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, str]:
    """(status, reason, message) of a call that fails."""
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    rich = rpc_status.from_call(cast(grpc.Call, raised.value))
    info = error_details_pb2.ErrorInfo()
    if rich is not None:
        assert rich.details[0].Unpack(info)
    return raised.value.code(), info.reason, raised.value.details() or ""


async def until(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)
