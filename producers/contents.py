"""The bytes of an event → fields or text: by what declares them, and never by a guess. Pure."""

from __future__ import annotations

import codecs
import re
from email.message import Message
from typing import Any, Final

import msgspec

from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal

_JSON: Final = msgspec.json.Decoder()
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose mark begins alike.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NOT_FOR_TEXT: Final = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined"})
"""Python's own, for other things: they take long, or make other characters of a text."""
_CONFLUENT_BYTES: Final = 5
"""A zero byte and a four-byte schema id."""
_APICURIO_BYTES: Final = 9
"""A zero byte and an eight-byte schema id."""
_GLUE_BYTES: Final = 18
"""Version 3, how it is compressed (0: not), and a schema id of 16 bytes."""


def content(value: bytes | None, content_type: str) -> dict[str, Any] | str:
    """Fields or text. Without a content type, a value that begins with `{` is JSON and any other is text.

    Raises Refusal(undecodable_event).
    """
    if value is None:
        raise undecodable(
            "the value is null: publish a JSON object of fields, or text; "
            f"to cancel a request, name its id in the header {names.CANCEL}"
        )
    media, charset = _declared(content_type)
    is_json = media == "application/json" or media.endswith("+json")
    if media and not is_json and media != "text/plain":
        raise undecodable(f"content type {media[:60]!r} is not understood: send application/json or text/plain")
    if not media.startswith("text/"):
        plain = _without_frame(value)
        value, is_json = plain, is_json or plain is not value
    value = _as_utf8(value, charset)
    if is_json or (not media and value.lstrip()[:1] == b"{"):
        decoded = from_json(value)
        if isinstance(decoded, dict | str):
            return decoded
        raise undecodable("the JSON is neither an object of fields nor a string: send one of these")
    return value.decode()


def from_json(value: bytes | None) -> Any:
    """Raises Refusal(undecodable_event), for objects as well that name a member twice."""
    value = (value or b"").removeprefix(codecs.BOM_UTF8)
    try:
        decoded = _JSON.decode(value)
    except RecursionError:
        raise undecodable("the JSON is nested too deeply: flatten it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise undecodable(
            f"the value is not JSON ({error}): correct it, or send text with the content type text/plain"
        ) from None
    # Outside of strings a colon stands once for each member, and of those with one name the decoder keeps one.
    if _STRING.sub(b"", value).count(b":") != _members(decoded):
        raise undecodable("a JSON object names a member twice, and it is not known which is meant: name each once")
    return decoded


def undecodable(message: str) -> Refusal:
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)


def _declared(content_type: str) -> tuple[str, str]:
    """(media type, charset) in lower case; empty where it is not said."""
    header = Message()
    header["content-type"] = content_type
    media, _, _ = content_type.partition(";")
    return media.strip().lower(), (header.get_content_charset() or "").lower()


def _without_frame(value: bytes) -> bytes:
    """The JSON after what serialisers put before it that use a schema registry; the value itself where nothing is."""
    if value[:1] == b"\x00" and len(value) > _CONFLUENT_BYTES:
        for size in (_CONFLUENT_BYTES, _APICURIO_BYTES):
            if value[size:].lstrip()[:1] in {b"{", b'"'}:
                return value[size:]
        # Two bytes that are zero are UTF-16 or UTF-32 rather than a frame.
        if value[:2] != b"\x00{":
            raise undecodable(
                "the value has the frame of a schema registry, and no JSON after it: Avro and Protobuf are not read, "
                "publish JSON"
            )
    if value[:1] == b"\x03" and len(value) > _GLUE_BYTES:
        if value[1] != 0:
            raise undecodable(
                "the value has the frame of the Glue schema registry and is compressed by it: switch that off, Kafka "
                "can compress"
            )
        return value[_GLUE_BYTES:]
    return value


def _as_utf8(value: bytes, charset: str) -> bytes:
    """The text in UTF-8, without a byte order mark."""
    mark, marked = next(((mark, name) for mark, name in _MARKS if value.startswith(mark)), (b"", ""))
    try:
        codec = codecs.lookup(marked or charset or "utf-8")
        if codec.name in _NOT_FOR_TEXT:
            raise LookupError
        text = value.removeprefix(mark).decode(codec.name)
        # Halves of pairs and such: what comes out must be text everywhere.
        plain = text.encode()
    except (LookupError, AttributeError):
        raise undecodable(f"charset {charset[:40]!r} in the content type is unknown: send UTF-8") from None
    except UnicodeError:
        said = f"{charset or marked} as it declares" if charset or marked else "UTF-8 text, nor JSON"
        raise undecodable(
            f"the value is not {said}: send UTF-8, or name the charset in the content type: "
            "text/plain; charset=windows-1252"
        ) from None
    if b"\0" in plain:
        raise undecodable(
            "the value holds zero bytes: is it UTF-16? Send UTF-8, or name the charset in the content type: "
            "text/plain; charset=utf-16"
        )
    return plain


def _members(decoded: Any) -> int:
    """Of all objects in it."""
    count, rest = 0, [decoded]
    while rest:
        match rest.pop():
            case dict() as members:
                count += len(members)
                rest += members.values()
            case list() as items:
                rest += items
    return count
