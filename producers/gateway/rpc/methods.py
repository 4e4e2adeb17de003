"""What all gRPC methods have in common: who calls, what is read, and what a failure becomes."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.inference.rows import RowFailed
from guideway.producers.gateway.room import Held
from guideway.producers.gateway.rpc.asked import REQUEST_ID, Metadata, deadline_ms, read_metadata
from guideway.producers.gateway.rpc.statuses import as_grpc, rich_status
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.protobuf.messages import message
from guideway.schemas.reply import Failed

log = structlog.get_logger(__name__)

_JITTER: Final = 1.1
"""Of gRPC, so that not all connections end at a time."""
_OF_A_CALL: Final = 2**14
"""Bytes of a call beside what is sent, and one of the calls that the server may have at a time."""


def grace_s(settings: GatewaySettings) -> float:
    """What is under way on a connection that takes no more calls may last so long, seconds."""
    return settings.max_wait_s + 2 * settings.send_timeout_s


def longest_s(settings: GatewaySettings) -> float:
    """No connection lasts longer, seconds."""
    return settings.connection_s * _JITTER + grace_s(settings)


class Ended(Exception):
    """A request has ended without a result."""

    def __init__(self, reply: Failed) -> None:
        super().__init__(reply.message)
        self.code = reply.code
        self.message = reply.message


class Asking:
    """One gRPC call while it is answered: who makes it, what it brings, and what is told of it should it fail."""

    def __init__(self, context: Any, metadata: Metadata, namespace: str, hold: Held) -> None:
        """namespace: the caller's. hold: of this call, what is sent and what is received."""
        self._context = context
        self.metadata = metadata
        self.namespace = namespace
        self.hold = hold
        self._is_unread = self._has_head = False
        self.now_ms = time.time_ns() // 1_000_000
        self.deadline_ms = deadline_ms(context.time_remaining(), self.now_ms)
        self.endpoint = ""
        """`/NAMESPACE/NAME`, once it is known."""
        self.request_id = ""
        """Of the event, once it has one."""

    def left_unread(self, size: int, there_s: float) -> None:
        """An answer of `size` bytes is counted for so many seconds more.

        gRPC keeps what it was given until it is read or the connection ends, and its status waits behind that: nothing
        ends a call whose client answers pings and does not read.
        """
        with contextlib.suppress(DoorRefusal):
            self.hold(size)
        # Beyond the part of its namespace it costs others nothing: there are only so many calls.
        with contextlib.suppress(DoorRefusal):
            self.hold.or_none(_OF_A_CALL)
        self._is_unread = True
        asyncio.get_running_loop().call_later(there_s, self.hold.close)

    def close(self) -> None:
        """It is answered."""
        if not self._is_unread:
            self.hold.close()

    async def begun(self, request_id: str) -> None:
        """Tell the id that the event got, while its result is awaited."""
        self.request_id = request_id
        if request_id.isascii():
            await self._send_head(((REQUEST_ID, request_id),))

    async def write(self, answer: Any) -> None:
        """Send an answer; the head before the first, for else no status could be sent while that is not read."""
        if not self._has_head:
            await self._send_head(())
        await self._context.write(answer)

    async def _send_head(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._has_head = True
        await self._context.send_initial_metadata(metadata)


class Methods:
    """Makes handlers of functions that take a message and an `Asking`, and raise refusals."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def unary(self, request: str, answer: Callable[[Any, Asking], Awaitable[Any]]) -> Any:
        """A method with one answer. request: the message's full name."""

        async def only(asked: Any, asking: Asking) -> AsyncGenerator[Any, None]:
            made = await answer(asked, asking)
            size = made.ByteSize()
            asking.hold(size)
            try:
                yield made
            finally:
                asking.hold.less(size)

        # To read the message is ours, so that it is done in time, and for those only whom we know; to send the answer
        # as well, so that it is held until it is sent, and not for long. What goes over the wire is the same as for a
        # method with one message each way.
        return self.stream(request, only)

    def open(self, request: str, answer: Callable[[Any], Awaitable[Any]]) -> Any:
        """A method for everybody. request: the message's full name."""

        async def only(asked: Any, asking: Asking) -> AsyncGenerator[Any, None]:
            yield await answer(asked)

        return self._handler(request, only, self._nobody)

    def stream(self, request: str, answer: Callable[[Any, Asking], AsyncGenerator[Any, None]]) -> Any:
        """A method with several answers. request: the message's full name."""
        return self._handler(request, answer, self._asking)

    def _handler(
        self,
        request: str,
        answer: Callable[[Any, Asking], AsyncGenerator[Any, None]],
        who: Callable[[Any], Awaitable[Asking]],
    ) -> Any:
        async def handle(messages: AsyncIterator[bytes], context: Any) -> None:
            asking: list[Asking] = []
            try:
                asking.append(await who(context))
                parts = answer(await self._asked(request, messages, asking[0]), asking[0])
                async with aclosing(parts):
                    async for one in parts:
                        await self._write(one, asking[0])
                return
            except Exception as error:
                status = _status(error, asking)
            finally:
                for one in asking:
                    one.close()
            await context.abort_with_status(as_grpc(status))

        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=_serialised)

    async def _write(self, answer: Any, asking: Asking) -> None:
        """Raises Refusal(deadline_exceeded) for a client that does not read what it is sent."""
        try:
            async with asyncio.timeout(self._gateway.settings.send_timeout_s):
                await asking.write(answer)
        except TimeoutError:
            asking.left_unread(answer.ByteSize(), longest_s(self._gateway.settings))
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED, "what was sent was not read in time: send it again, and read faster"
            ) from None

    async def received(self, messages: AsyncIterator[bytes]) -> bytes:
        """The one message of a call. Raises DoorRefusal(bad_request) where it does not come, or not in time."""
        try:
            async with asyncio.timeout(self._gateway.settings.body_timeout_s):
                return await anext(messages)
        except (TimeoutError, StopAsyncIteration):
            raise DoorRefusal(DoorCode.BAD_REQUEST, "the message did not come in time: send one, and faster") from None

    async def _asking(self, context: Any) -> Asking:
        """Who calls, before anything is read of what is sent."""
        metadata = read_metadata(context.invocation_metadata() or ())
        caller = await self._gateway.identities.caller(metadata.authorization, metadata.api_key)
        return Asking(context, metadata, caller.namespace, self._gateway.room.held(caller.namespace))

    async def _nobody(self, context: Any) -> Asking:
        """Whoever it is: all of them share what one namespace may have."""
        return Asking(context, read_metadata(()), "", self._gateway.room.held(""))

    async def _asked(self, request: str, messages: AsyncIterator[bytes], asking: Asking) -> Any:
        """The message."""
        raw = await self.received(messages)
        asking.hold(len(raw))
        return _read(request, raw)


def _read(request: str, raw: bytes) -> Any:
    try:
        return message(request).FromString(raw)
    except DecodeError:
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT,
            f"what was sent is no {request}: fill in the published message, text in UTF-8, at most 100 levels deep",
        ) from None


def _serialised(answer: Any) -> bytes:
    return bytes(answer.SerializeToString())


def _status(error: Exception, asking: list[Asking]) -> Any:
    if not isinstance(error, Refusal | DoorRefusal | Ended | RowFailed):
        # Its own words may hold what was sent.
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("a gRPC call failed", error=type(error).__name__, where=f"{place.name}, line {place.lineno}")
        error = our_fault(error, "the gateway")
    if not asking:
        return rich_status(error.code, error.message)
    [of] = asking
    return rich_status(
        error.code, error.message, namespace=of.namespace, endpoint=of.endpoint, request_id=of.request_id
    )
