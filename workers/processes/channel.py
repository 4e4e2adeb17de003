"""A child process's end of the socket by which its parent, the I/O process, tells it what to do."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
from typing import Final, Generic, TypeVar

import msgspec
import structlog

from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame

In = TypeVar("In")
_LOOK_FOR_PARENT_S: Final = 1.0

log = structlog.get_logger()


class Channel(Generic[In]):
    """The child's end of the socket. A thread of its own reads, so that messages come in while the process works.

    The process ends when the other end of the socket closes, and when its parent dies.
    """

    def __init__(self, connection: socket.socket, decoder: msgspec.msgpack.Decoder[In]) -> None:
        self._connection = connection
        self._decoder = decoder
        self._inbox: queue.SimpleQueue[In] = queue.SimpleQueue()
        self._parent = os.getppid()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def receive(self) -> In:
        """The next message, as soon as there is one."""
        return self._inbox.get()

    def waiting(self) -> list[In]:
        """All messages that are here already."""
        messages = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._inbox.get_nowait())
        return messages

    def post(self, message: In) -> None:
        """From a thread of this process: a message as if it had come by the socket."""
        self._inbox.put(message)

    def send(self, message: msgspec.Struct) -> None:
        try:
            self._connection.sendall(frame(message))
        except OSError:
            _end("nobody listens any more")

    def _read(self) -> None:
        try:
            while True:
                header = self._exactly(HEADER_BYTES)
                self._inbox.put(self._decoder.decode(self._exactly(body_length(header))))
        except Exception as error:
            # The error's type only: its message may quote what could not be decoded.
            _end(f"the socket brings no more messages: {type(error).__name__}")

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            while not select.select([self._connection], [], [], _LOOK_FOR_PARENT_S)[0]:
                if os.getppid() != self._parent:
                    raise EOFError
            if not (received := self._connection.recv(size - len(data))):
                raise EOFError
            data += received
        return bytes(data)


def _end(why: str) -> None:
    """From any thread: nothing here outlives the process, and nobody is left to be told."""
    log.info("process ends", why=why)
    os._exit(0)
