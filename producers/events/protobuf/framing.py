"""What stands before a Protobuf message in a record: the frame of a schema registry, and names in content types. Pure.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import functools
from email.message import Message
from typing import Final

from guideway.schemas.failures import FailureCode, Refusal

MEDIA_TYPES: Final = ("application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf")
_TYPE_PARAMETERS: Final = ("messagetype", "message", "proto")
"""Parameters of the content type that name the message, in lower case."""
MAX_TYPE_CHARS: Final = 1000
"""Of a content type: to read one takes time by the square of its length."""
_KEPT_CHARS: Final = 200
_FRAME_BYTES: Final = 5
"""A zero byte and a four-byte schema id."""
_GLUE: Final = b"\x03"
_MOST_INDEXES: Final = 50


def is_protobuf(media: str) -> bool:
    """Whether this media type, in lower case and without parameters, is of a Protobuf message."""
    return media in MEDIA_TYPES


def declared_message(content_type: str) -> str:
    """The message that a content type names; empty where it names none."""
    return _named(content_type) if len(content_type) <= _KEPT_CHARS else _named.__wrapped__(content_type)


@functools.lru_cache(maxsize=1024)
def _named(content_type: str) -> str:
    header = Message()
    header["content-type"] = content_type
    try:
        given = {name.lower(): value for name, value in header.get_params([], unquote=True)}
    except (TypeError, ValueError):
        return ""
    found = next((given[name] for name in _TYPE_PARAMETERS if given.get(name)), "")
    return str(found).strip().rpartition("/")[2]


def without_frame(value: bytes, indexes: tuple[int, ...], message: str) -> bytes:
    """The message's own bytes. indexes: the declared message's place in its file.

    No message begins with a zero byte, so that a frame is never taken for one. The schema's id is not looked up.
    Raises Refusal(undecodable_event) where the frame is of another message.
    """
    if value[:1] == _GLUE:
        raise _refused("the value has the frame of the Glue schema registry: send the message as it is, without it")
    if value[:1] != b"\0":
        return value
    if len(value) <= _FRAME_BYTES:
        raise _refused("the value begins with a zero byte, as in the frame of a schema registry, and ends within it")
    found, at = _indexes(value)
    if found != indexes:
        raise _refused(
            f"the frame names message number {', '.join(map(str, found))} of its file, and {message} is number "
            f"{', '.join(map(str, indexes))} in the endpoint's descriptors: send {message}, or have the endpoint "
            "applied with the present descriptors"
        )
    return value[at:]


def _indexes(value: bytes) -> tuple[tuple[int, ...], int]:
    """(the indexes after the schema id, where the message begins)."""
    count, at = _zigzag(value, _FRAME_BYTES)
    if count == 0:
        return (0,), at
    if not 0 < count <= _MOST_INDEXES:
        raise _refused(
            "the frame of the schema registry has no message indexes after the id: switch `use.deprecated.format` off, "
            "and send the Protobuf serialiser's frame"
        )
    found = []
    for _ in range(count):
        one, at = _zigzag(value, at)
        found.append(one)
    return tuple(found), at


def _zigzag(value: bytes, at: int) -> tuple[int, int]:
    """(a number in zig-zag form, where the next begins)."""
    number = 0
    for place, byte in enumerate(value[at : at + 5]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + place + 1
    raise _refused("the frame of the schema registry is cut, or is another's: send the Protobuf serialiser's frame")


def _refused(message: str) -> Refusal:
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)
