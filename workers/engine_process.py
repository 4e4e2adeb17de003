"""The engine in a process of its own: `python -m guideway.workers.engine_process --fd N`, told what to do by a socket.

It ends when it is told to, when the other end of the socket closes, and when its parent dies, whichever comes first.
Logs go to stderr and hold no texts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.workers.messages import (
    HEADER_BYTES,
    TO_ENGINE,
    Admit,
    Broken,
    Cancel,
    FromEngine,
    Ready,
    Start,
    Stop,
    ToEngine,
    body_length,
    frame,
)

if TYPE_CHECKING:
    from guideway.workers.engine.engine import Engine

_LOOK_FOR_PARENT_S: Final = 1.0

log = structlog.get_logger()


class Channel:
    """Our end of the socket. A thread of its own reads, so that messages come in while a step runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self._parent = os.getppid()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def receive(self) -> ToEngine:
        """The next message, as soon as there is one."""
        return self._inbox.get()

    def waiting(self) -> list[ToEngine]:
        """All messages that are here already."""
        messages = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._inbox.get_nowait())
        return messages

    def send(self, message: FromEngine) -> None:
        try:
            self._connection.sendall(frame(message))
        except OSError:
            _end("nobody listens any more")

    def _read(self) -> None:
        try:
            while True:
                header = self._exactly(HEADER_BYTES)
                self._inbox.put(TO_ENGINE.decode(self._exactly(body_length(header))))
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


def load(start: Start) -> Engine:
    """The engine for this model and these settings.

    Raises: Refusal `unknown_model_size` if the model is not there or is not the one whose fingerprint is declared.
    """
    import torch

    from guideway.workers.engine import base_model
    from guideway.workers.engine.engine import Engine

    model, settings = start.model, start.settings
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder = base_model.prepare(model.source, Path(settings.model_cache), progress=log.info)
    base = base_model.load(folder, dtype=getattr(torch, model.dtype), device=settings.device)
    _check_fingerprint(model, base.fingerprint)
    return Engine(base, settings, max_context_tokens=model.max_context_tokens)


def serve(channel: Channel, engine: Engine) -> None:
    """Run what comes until told to stop."""
    while True:
        messages = channel.waiting() if engine.has_work else [channel.receive()]
        for message in messages:
            match message:
                case Admit():
                    engine.add(message)
                case Cancel():
                    engine.cancel(message.id)
                case Stop():
                    return
                case Start():
                    log.error("started twice; the second start is ignored")
        for answer in engine.step(time.time()):
            channel.send(answer)


def main() -> int:
    """Exit status 0 if told to stop or left alone, 1 if the model cannot be loaded, else a crash."""
    parser = argparse.ArgumentParser(prog="guideway.workers.engine_process", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the I/O process")
    channel = Channel(socket.socket(fileno=parser.parse_args().fd))
    # Ctrl-C goes to the whole group: the I/O process takes it, ends its work and then tells us to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _log_to_stderr()
    match channel.receive():
        case Start() as start:
            began = time.monotonic()
        case Stop():
            return 0
        case message:
            raise ValueError(f"the first message is {type(message).__name__} and must be Start")
    try:
        engine = load(start)
    except Refusal as refusal:
        channel.send(Broken(code=refusal.code, message=refusal.message))
        return 1
    channel.send(Ready(fingerprint=engine.fingerprint, load_s=time.monotonic() - began))
    serve(channel, engine)
    return 0


def _check_fingerprint(model: Model, found: str) -> None:
    if model.fingerprint not in (None, found):
        raise Refusal(
            FailureCode.UNKNOWN_MODEL_SIZE,
            f"model size {model.name!r} is declared with fingerprint {model.fingerprint}, but {model.source!r} has "
            f"{found}: give the source of the declared model, or declare this one and train its guidance anew",
        )


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.LogfmtRenderer(bool_as_flag=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _end(why: str) -> None:
    """From any thread: nothing here outlives the process, and nobody is left to be told."""
    log.info("engine process ends", why=why)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
