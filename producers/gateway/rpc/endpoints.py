"""The service `guideway.v1.Endpoints`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import grpc

from guideway.producers.gateway.call import Call
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.rpc.asked import call_of
from guideway.producers.gateway.rpc.methods import Asking, Ended, Methods
from guideway.producers.gateway.running import under_way, wait_s
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.partial import Partial
from guideway.schemas.protobuf.messages import message
from guideway.schemas.protobuf.replies import reply_message
from guideway.schemas.reply import Completed, Failed

SERVICE: Final = "guideway.v1.Endpoints"
_OF_A_PIECE: Final = ("sample", "attempt", "number", "text")


class Endpoints:
    """Answers its calls with what the gateway gets from the road."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def handlers(self, methods: Methods) -> grpc.GenericRpcHandler[bytes, Any]:
        """What the server is to know."""
        made = {
            "Run": methods.unary("guideway.v1.RunRequest", self._run),
            "RunStream": methods.stream("guideway.v1.RunStreamRequest", self._run_stream),
            "Get": methods.unary("guideway.v1.GetRequest", self._get),
            "Cancel": methods.unary("guideway.v1.CancelRequest", self._cancel),
        }
        return grpc.method_handlers_generic_handler(SERVICE, made)

    async def _run(self, request: Any, asking: Asking) -> Any:
        call = _call(request, asking)
        async with under_way(self._gateway, call) as pending:
            await asking.begun(pending.id)
            async with asyncio.timeout(wait_s(self._gateway, call.deadline_ms)):
                reply = await pending.reply()
        if isinstance(reply, Failed):
            raise Ended(reply)
        return message("guideway.v1.RunResponse")(reply=reply_message(reply))

    async def _run_stream(self, request: Any, asking: Asking) -> AsyncGenerator[Any, None]:
        answer = message("guideway.v1.RunStreamResponse")
        call = _call(request, asking, partial=True)
        async with under_way(self._gateway, call) as pending:
            await asking.begun(pending.id)
            async with aclosing(pending.streamed(wait_s(self._gateway, call.deadline_ms))) as parts:
                async for part in parts:
                    match part:
                        case Partial():
                            told = {name: getattr(part, name) for name in _OF_A_PIECE}
                            yield answer(partial=told)
                        case Completed():
                            yield answer(reply=reply_message(part))
                        case Failed():
                            raise Ended(part)

    async def _get(self, request: Any, asking: Asking) -> Any:
        with self._gateway.room.taken(asking.namespace):
            return await self._state(await self._found(request, asking))

    async def _state(self, pending: Pending) -> Any:
        made = message("guideway.v1.GetResponse")()
        try:
            if pending.done:
                made.reply.CopyFrom(reply_message(await pending.reply()))
            else:
                made.in_progress.endpoint = pending.address or ""
        finally:
            pending.leave()
        return made

    async def _cancel(self, request: Any, asking: Asking) -> Any:
        pending = await self._found(request, asking)
        try:
            if not pending.done:
                await pending.cancel()
        finally:
            pending.leave()
        return message("guideway.v1.CancelResponse")()

    async def _found(self, request: Any, asking: Asking) -> Pending:
        if not request.id:
            raise Refusal(FailureCode.INVALID_HEADER, "`id` is empty: name the event")
        asking.request_id = request.id
        try:
            return await self._gateway.calls.find(asking.namespace, request.id)
        except DoorRefusal as refusal:
            if refusal.code is not DoorCode.UNKNOWN_REQUEST:
                raise
            # In the words of this door.
            raise DoorRefusal(
                DoorCode.UNKNOWN_REQUEST,
                f"namespace {asking.namespace} has sent no event with this id that is kept: give the event its `id` "
                "when you send it",
            ) from None


def _call(request: Any, asking: Asking, *, partial: bool = False) -> Call:
    call = call_of(
        request.event, asking.metadata, namespace=asking.namespace, deadline=asking.deadline_ms, partial=partial
    )
    asking.endpoint = call.address or ""
    return call
