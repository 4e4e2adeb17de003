"""The I/O process's end of the socket to a child process that it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

import msgspec

from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame

T = TypeVar("T")
_DRAIN_S: Final = 5.0


class Child:
    """A running child. Sending never waits. What the child cannot take any more is lost."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._outbox = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        # What is said within one turn of the event loop goes out together: a batch of requests is one system call.
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._send_outbox)
        self._outbox += frame(message)

    async def drain(self) -> None:
        """Wait until what was sent is on its way, or nobody takes it any more; at most 5 s."""
        self._send_outbox()
        with contextlib.suppress(OSError):  # TimeoutError is one
            await asyncio.wait_for(self._writer.drain(), _DRAIN_S)

    async def receive(self, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
        """The next message; None once the child has closed its end."""
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            return decoder.decode(await self._reader.readexactly(body_length(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

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
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield Child(process, reader, writer)
    finally:
        writer.close()
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
