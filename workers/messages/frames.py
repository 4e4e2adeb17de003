"""How messages between processes are framed: msgpack after a 4-byte big-endian length."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

_LENGTH: Final = struct.Struct(">I")
MAX_FRAME_BYTES: Final = 64 * 2**20
HEADER_BYTES: Final = _LENGTH.size
_ENCODER: Final = msgspec.msgpack.Encoder()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A member of one direction's union."""


def frame(message: msgspec.Struct) -> bytes:
    """The message with its length before it."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


def body_length(header: bytes | bytearray) -> int:
    """Length of the body that follows a frame's header."""
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"frame of {length} bytes: the two processes are out of step")
    return int(length)
