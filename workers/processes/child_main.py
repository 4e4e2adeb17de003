"""What a child process does from its start to its end, whatever it serves."""

from __future__ import annotations

import argparse
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from guideway import logs
from guideway.schemas.failures import Refusal
from guideway.workers.messages.every_child import Broken, Ready, Stop
from guideway.workers.processes.channel import Channel

Message = TypeVar("Message")
Start = TypeVar("Start")
Service = TypeVar("Service")


class Loaded(NamedTuple, Generic[Service]):
    """What the process serves, and the fingerprint of its model."""

    service: Service
    fingerprint: str
    former_fingerprint: str = ""
    """As it was computed before decision 15."""


def child_main(
    program: str,
    decoder: msgspec.msgpack.Decoder[Message],
    start: type[Start],
    *,
    prepare: Callable[[], None] = lambda: None,
    load: Callable[[Start, Channel[Message]], Loaded[Service]],
    serve: Callable[[Channel[Message], Service], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """`program --fd N`: told a `start` on socket N, load, say `Ready` or `Broken`, serve until told to stop.

    decoder: of what the I/O process sends. prepare: settings of this process, before anything is loaded.
    load: raises Refusal where the model cannot be had; what it says is sent as `Broken`. arguments: else the command
    line's.

    Returns the exit status: 0 if told to stop, 1 after `Broken`. The process ends by itself, with 0, when the other end
    of the socket closes and when its parent dies. Raises: ValueError if the first message is none of these; whatever
    else `load` and `serve` raise, which is a crash.
    """
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the I/O process")
    channel = Channel(socket.socket(fileno=parser.parse_args(arguments).fd), decoder)
    # Ctrl-C goes to the whole group, and SIGTERM from some service managers as well: the I/O process takes it, ends its
    # work and then tells us to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # In the same form as those of the I/O process, whose stderr is ours.
    logs.configure()
    prepare()
    first = channel.receive()
    if isinstance(first, Stop):
        return 0
    if not isinstance(first, start):
        raise ValueError(f"the first message is {type(first).__name__} and must be {start.__name__}")
    began = time.monotonic()
    try:
        loaded = load(first, channel)
    except Refusal as refusal:
        channel.send(Broken(code=refusal.code, message=refusal.message))
        return 1
    channel.send(
        Ready(
            fingerprint=loaded.fingerprint,
            former_fingerprint=loaded.former_fingerprint,
            load_s=time.monotonic() - began,
        )
    )
    serve(channel, loaded.service)
    return 0
