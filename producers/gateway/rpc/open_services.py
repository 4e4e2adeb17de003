"""What gRPC servers have for everybody: health, and what their services are. Nobody is asked who calls.

So both are bounded: in how many calls there are at a time, and in how long each of them takes. A call whose answer is
not read cannot be ended, and lasts as long as its connection. So one machine has a part of the places only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from guideway.schemas.protobuf.messages import descriptors

HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both versions have the same messages under other names."""
_MESSAGE_S: Final = 10.0
"""For the message of a question."""
_REFLECTION_S: Final = 60.0
"""For all questions of one call."""
_READ_S: Final = 10.0
"""For a client to read an answer."""
_AT_A_TIME: Final = 100
"""Calls of each method."""
_AT_A_TIME_OF_ONE: Final = {"check": 20, "watch": 50, "reflect": 20}
"""Of these, those of one address. Clients behind a proxy have one, and those that watch stay."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _Unread(Exception):
    """A client does not read what it is told."""


class OpenServices:
    """Answers their calls. How the server is, it is told."""

    def __init__(self, services: Sequence[str], *, longest_s: float) -> None:
        """services: full names of the server's other services. longest_s: no connection lasts longer, seconds."""
        self._services = services
        self._longest_s = longest_s
        self._taken: Counter[str] = Counter()
        """Calls of each method."""
        self._taken_of: Counter[tuple[str, str]] = Counter()
        """Calls of each method and address."""
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()
        """Of the present status: set when it is another one, for all who watch at once. Nobody waits for them."""

    def tell(self, *, is_ready: bool) -> None:
        """Whether the server can serve; whoever watches is told of a change."""
        status = _SERVING if is_ready else _NOT_SERVING
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()

    def handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        """What the server is to know."""
        serialised = health_pb2.HealthCheckResponse.SerializeToString
        health = {
            "Check": grpc.stream_stream_rpc_method_handler(self._check, _question, serialised),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch, _question, serialised),
        }
        reflection = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self._reflect,
                reflection_pb2.ServerReflectionRequest.FromString,
                reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        }
        self._reflection = ReflectionServicer([*self._services, HEALTH], pool=_pool())
        return [
            grpc.method_handlers_generic_handler(HEALTH, health),
            *(grpc.method_handlers_generic_handler(name, reflection) for name in REFLECTION),
        ]

    async def _check(self, messages: AsyncIterator[Any], context: Any) -> None:
        with self._place("check", context) as there_is:
            if there_is and (asked := await _received(messages)) is not None:
                if (status := self._status_of(asked.service)) is None:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
                await context.send_initial_metadata(())
                await _tell(context, health_pb2.HealthCheckResponse(status=status))
                return
        await _refused(context, there_is)

    async def _watch(self, messages: AsyncIterator[Any], context: Any) -> None:
        with self._place("watch", context) as there_is:
            if there_is and (asked := await _received(messages)) is not None:
                await context.send_initial_metadata(())
                told: Any = None
                while True:
                    changed, status = self._changed, self._status_of(asked.service)
                    status = _UNKNOWN if status is None else status
                    if status != told:
                        await _tell(context, health_pb2.HealthCheckResponse(status=status))
                        told = status
                    await changed.wait()
        await _refused(context, there_is)

    async def _reflect(self, messages: AsyncIterator[Any], context: Any) -> None:
        with self._place("reflect", context) as there_is:
            if there_is:
                await context.send_initial_metadata(())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFLECTION_S):
                        async for answer in self._reflection.ServerReflectionInfo(messages, context):
                            await _tell(context, answer)
                        return
        await _refused(context, there_is)

    def _status_of(self, service: str) -> Any:
        """None: there is no such service."""
        return self._status if service in ("", *self._services) else None

    @contextmanager
    def _place(self, method: str, context: Any) -> Iterator[bool]:
        """Whether there is one for a further call, which takes it. A client that does not read ends the work."""
        address = _address(context.peer())
        if self._taken[method] >= _AT_A_TIME or self._taken_of[method, address] >= _AT_A_TIME_OF_ONE[method]:
            yield False
            return
        self._take(method, address, 1)
        try:
            yield True
        except _Unread:
            # gRPC keeps the call until it is read or its connection ends.
            self._take(method, address, 1)
            asyncio.get_running_loop().call_later(self._longest_s, self._take, method, address, -1)
        finally:
            self._take(method, address, -1)

    def _take(self, method: str, address: str, count: int) -> None:
        self._taken[method] += count
        self._taken_of[method, address] += count
        if not self._taken_of[method, address]:
            del self._taken_of[method, address]


def _address(peer: str) -> str:
    """Of a peer as gRPC names it, such as `ipv4:10.0.0.1:5000`: without the port."""
    return peer.rpartition(":")[0]


async def _tell(context: Any, answer: Any) -> None:
    """The head must have been sent: else no status could be, while this is not read. Raises _Unread."""
    try:
        async with asyncio.timeout(_READ_S):
            await context.write(answer)
    except TimeoutError:
        raise _Unread from None


def _question(raw: bytes) -> Any:
    return health_pb2.HealthCheckRequest.FromString(raw)


async def _received(messages: AsyncIterator[Any]) -> Any:
    try:
        async with asyncio.timeout(_MESSAGE_S):
            return await anext(messages)
    except (TimeoutError, StopAsyncIteration):
        return None


async def _refused(context: Any, there_is: bool) -> Any:
    if there_is:
        why = "the question did not come in time, or the answer was not read: ask anew"
        return await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, why)
    return await context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"{_AT_A_TIME} clients watch or ask for services, or many from your address: read the answers, and try again "
        "later",
    )


def _pool() -> DescriptorPool:
    """Clients without our files ask for them: grpcurl, grpcui, Postman."""
    made = DescriptorPool()
    health = FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    for file in (*descriptors(), health):
        made.Add(file)
    return made
