"""The I/O process's end of the socket to a child process that it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

import msgspec

from guideway.delivery.connection.reading import SECRET_VARIABLES
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame

T = TypeVar("T")
_DRAIN_S: Final = 5.0
_READ_BYTES: Final = 2**16


class Child:
    """A running child. Sending never waits. What the child cannot take any more is lost."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._inbox, self._outbox = bytearray(), bytearray()

    def send(self, message: msgspec.Struct) -> None:
        # What is said within one turn of the event loop goes out together: a batch of requests is one system call.
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._send_outbox)
        self._outbox += frame(message)

    async def drain(self) -> None:
        """Wait until what was sent is on its way, or nobody takes it any more; at most 5 s."""
        self._send_outbox()
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(_DRAIN_S):
                await self._writer.drain()

    async def receive(self, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
        """The next message; None once the child has closed its end. Only one may be waited for at a time."""
        while (body := self._next_body()) is None:
            try:
                data = await self._reader.read(_READ_BYTES)
            except ConnectionError:
                return None
            if not data:
                return None
            self._inbox += data
        return decoder.decode(body)

    def _next_body(self) -> bytes | None:
        """That of the next message, if all of it is here."""
        if len(self._inbox) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + body_length(self._inbox[:HEADER_BYTES])
        if len(self._inbox) < end:
            return None
        body = bytes(self._inbox[HEADER_BYTES:end])
        del self._inbox[:end]
        return body

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _send_outbox(self) -> None:
        if self._outbox and not self._writer.is_closing():
            self._writer.write(bytes(self._outbox))
        self._outbox.clear()


@contextlib.asynccontextmanager
async def child_process(program: Sequence[str]) -> AsyncIterator[Child]:
    """`PROGRAM --fd N`, running; on exit its socket is closed, and what does not end by itself within 5 s is killed."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *program,
            "--fd",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            env=_environment(),
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield Child(process, reader, writer)
    finally:
        writer.close()
        await _ended(process)


def _environment() -> dict[str, str]:
    """Ours without the cluster's secrets: who runs what tenants wrote talks to no broker."""
    ours = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    return {**ours, "TOKENIZERS_PARALLELISM": "false"}


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(5):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
