"""A reply as server-sent events: its text piece by piece, and the reply at the end, which counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.waiting import disconnected
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.status import DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.wire import PARTIAL, REPLY

T = TypeVar("T")
_KEEP_ALIVE: Final = b": waiting\n\n"


class EventStream(Response):
    """The response. The client going away cancels a request that nobody can ask for later."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, pending: Pending, wait_s: float) -> None:
        """wait_s: how long the reply is awaited, seconds."""
        super().__init__()
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"
        self._gateway, self._pending, self._wait_s = gateway, pending, wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what `send` raises."""
        tasks: list[asyncio.Task[None]] = []
        try:
            # Until the stream ends, as the request that has begun it has left its room.
            with self._gateway.room.taken(self._pending.namespace):
                tasks = [asyncio.create_task(self._write(send)), asyncio.create_task(disconnected(receive))]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            ended = self._pending.done
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._pending.leave()
            if not ended and not self._pending.kept:
                self._gateway.abandon(self._pending)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _came(self) -> AbstractAsyncContextManager[AsyncGenerator[Partial | Reply | None, None]]:
        """What comes, and None where nothing has come for a while. Left, it holds nothing any more."""
        pause_s = self._gateway.settings.keep_alive_s
        return aclosing(with_pauses(self._pending.streamed(self._wait_s), pause_s))

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        attempt = -1
        yield _KEEP_ALIVE
        try:
            async with self._came() as came:
                async for one in came:
                    match one:
                        case None:
                            yield _KEEP_ALIVE
                        case Partial():
                            if attempt >= 0 and one.attempt != attempt:
                                # It was begun again: what was told before is nobody's text.
                                yield event("restart", msgspec.json.encode({"attempt": one.attempt}))
                            attempt = one.attempt
                            yield event("partial", PARTIAL.encode(one))
                        case Completed():
                            yield event("completed", REPLY.encode(one))
                        case Failed():
                            yield event("failed", REPLY.encode(one))
        except TimeoutError:
            yield event("error", _error(FailureCode.DEADLINE_EXCEEDED.value, "there was no reply in time"))
        except (Refusal, DoorRefusal) as refusal:
            yield event("error", _error(refusal.code.value, refusal.message))


async def with_pauses(items: AsyncIterator[T], pause_s: float) -> AsyncGenerator[T | None, None]:
    """The items, and None whenever none came for `pause_s` seconds. Closed, it closes them."""
    coming: asyncio.Future[T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait({coming}, timeout=pause_s)
            if not done:
                yield None
                continue
            one, coming = coming, None
            try:
                item = one.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        if isinstance(items, AsyncGenerator):
            await items.aclose()


def event(name: str, data: bytes) -> bytes:
    """One event; data: one line of JSON."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data.replace(b"\r", b"").replace(b"\n", b" "))


def _error(code: str, message: str) -> bytes:
    return msgspec.json.encode({"code": code, "message": message})
