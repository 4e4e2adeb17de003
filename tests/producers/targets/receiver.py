"""Real servers on 127.0.0.1 that answer posts as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Answering = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """One post."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What it was sent."""

    port: int = 0
    posts: list[Received] = field(default_factory=list)
    ended: bool = False
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, enough: Callable[[list[Received]], bool], timeout_s: float = 60) -> None:
        """Wait until what came is enough."""
        async with asyncio.timeout(timeout_s), self.came:
            await self.came.wait_for(lambda: enough(self.posts))


def answering(status: int, *headers: str, body: str = "") -> Answering:
    """The answer to every post."""

    async def answer(_post: Received, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers, "", body]
        writer.write("\r\n".join(head).encode())
        await writer.drain()

    return answer


@contextlib.asynccontextmanager
async def receiving(answer: Answering) -> AsyncIterator[Receiver]:
    """A server on a free port."""
    receiver = Receiver()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await one(reader, writer)
        finally:
            writer.transport.abort() if receiver.ended else writer.close()
            serving.discard(task)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            post = Received(first.split()[1], headers, await reader.readexactly(int(headers["content-length"])))
            receiver.posts.append(post)
            async with receiver.came:
                receiver.came.notify_all()
            await answer(post, writer)
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver
        receiver.ended = True
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
