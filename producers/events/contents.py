"""The bytes of an event → fields or text. What declares them decides, never a guess. Pure."""

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
_COMPRESSED: Final = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"x\x9c", "zlib"))
_BINARY: Final = re.compile(r"[\x01-\x06\x0e-\x1a\x1c-\x1f]")
"""Characters that no text of people holds, and that Avro, Protobuf and MessagePack do. ESC is none: it colours logs."""
_NOT_FOR_TEXT: Final = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined"})
"""Codecs of Python's for other uses: they take long, or make other characters of a text."""
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
    is_json = media in ("application/json", "text/json") or media.endswith("+json")
    if media and not is_json and media != "text/plain":
        raise undecodable(f"content type {media[:60]!r} is not understood: send application/json or text/plain")
    if media != "text/plain":
        plain = _without_frame(value)
        value, is_json = plain, is_json or plain is not value
    value = as_utf8(value, charset)
    if is_json or (not media and value.lstrip()[:1] == b"{"):
        return _from_json_value(value)
    if not media:
        _check_undeclared(value)
    return value.decode()


def from_json(value: bytes | None) -> Any:
    """The decoded value. Raises Refusal(undecodable_event), also for an object that names a member twice."""
    value = (value or b"").removeprefix(codecs.BOM_UTF8)
    if not value.strip():
        raise undecodable("the value is empty, and no JSON: publish an object of fields")
    try:
        decoded = _JSON.decode(value)
    except RecursionError:
        raise undecodable("the JSON is nested too deeply: flatten it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise undecodable(
            f"the value is not JSON ({error}{_likely(value, str(error))}): correct it, or send text with the "
            "content type text/plain"
        ) from None
    # Outside of strings a colon stands once for each member, and of those with one name the decoder keeps one.
    if _STRING.sub(b"", value).count(b":") != _members(decoded):
        raise undecodable("a JSON object names a member twice, and it is not known which is meant: name each once")
    return decoded


def check_content(text: str) -> str:
    """The text. Raises Refusal(undecodable_event) for JSON that was made a string of JSON, as by encoding it twice."""
    if text.lstrip()[:1] == "{":
        try:
            twice = isinstance(_JSON.decode(text), dict)
        except (msgspec.DecodeError, RecursionError):
            twice = False
        if twice:
            raise undecodable(
                "the value is a JSON string that holds a JSON object, as if it was encoded twice: encode it once; if "
                "the text itself is JSON, put it into a field, or declare text/plain"
            )
    return text


def declared_charset(content_type: str) -> str:
    """The charset that a content type names, in lower case; empty where it names none."""
    return _declared(content_type)[1]


def undecodable(message: str) -> Refusal:
    """`message`: what is wrong, and what to change."""
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)


def _from_json_value(value: bytes) -> dict[str, Any] | str:
    decoded = from_json(value)
    if isinstance(decoded, str):
        return check_content(decoded)
    if isinstance(decoded, dict):
        return decoded
    if isinstance(decoded, list) and any(isinstance(one, dict) for one in decoded):
        raise undecodable("the JSON is an array of objects: publish one event a record")
    raise undecodable("the JSON is neither an object of fields nor a string: send one of these")


def _check_undeclared(value: bytes) -> None:
    """Check a value without a content type that would be read as text. Raises Refusal(undecodable_event)."""
    head = value.lstrip()[:1]
    if head in (b"[", b'"'):
        try:
            decoded = _JSON.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if isinstance(decoded, str):
            check_content(decoded)
        elif isinstance(decoded, list) and any(isinstance(one, dict) for one in decoded):
            raise undecodable(
                "the value is a JSON array of objects: publish one event a record; if it is text, declare the content "
                "type text/plain"
            )
    elif found := _BINARY.search(value.decode()):
        raise undecodable(
            f"the value holds the control character {found[0]!r}, as binary forms do: Avro, Protobuf and MessagePack "
            "are not read, publish JSON; if it is text, declare the content type text/plain"
        )


def _likely(value: bytes, error: str) -> str:
    """The most frequent cause of such an error of the decoder's; empty if none is known."""
    found = re.search(r"byte (\d+)", error)
    at = int(found[1]) if found else len(value)
    if "truncated" in error and re.search(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", value):
        return ": half of a surrogate pair is no character"
    if value[at:].lstrip(b"-")[:3] in (b"NaN", b"Inf"):
        return ": NaN and Infinity are no JSON, write null"
    if value[at : at + 1] == b"'":
        return ": names and texts stand in double quotes"
    if value[at : at + 2] in (b"//", b"/*") or value[at - 1 : at + 1] in (b"//", b"/*"):
        return ": JSON has no comments"
    if "trailing characters" in error and value[at - 1 : at] in (b"{", b"["):
        return ": it holds several values, publish one event a record"
    return ""


def _declared(content_type: str) -> tuple[str, str]:
    """(media type, charset) of a content type, in lower case; empty where it names none."""
    header = Message()
    header["content-type"] = content_type
    media, _, parameters = content_type.partition(";")
    try:
        charset = header.get_content_charset() or ""
    except (TypeError, ValueError):
        # Of parts that do not fit together, as in `charset*=a; charset*1=b`: all of it is the name of no charset.
        charset = parameters
    # Spring's mapper of headers writes texts as JSON.
    return media.strip().strip('"').lower(), charset.lower()


def _without_frame(value: bytes) -> bytes:
    """The value without the frame that serialisers with a schema registry put before JSON.

    Raises Refusal(undecodable_event) where something else than JSON follows the frame.
    """
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
        if value[_GLUE_BYTES:].lstrip()[:1] not in {b"{", b'"'}:
            raise undecodable(
                "the value has the frame of the Glue schema registry, and no JSON after it: Avro and Protobuf are not "
                "read, publish JSON"
            )
        return value[_GLUE_BYTES:]
    return value


def as_utf8(value: bytes, charset: str) -> bytes:
    """The text in UTF-8, without a byte order mark. Raises Refusal(undecodable_event)."""
    for begin, what in _COMPRESSED:
        if value.startswith(begin):
            raise undecodable(f"the value is compressed with {what}: send it as it is, Kafka can compress")
    mark, marked = next(((mark, name) for mark, name in _MARKS if value.startswith(mark)), (b"", ""))
    try:
        codec = codecs.lookup(marked or charset.replace("\0", "�") or "utf-8")
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
    """The number of members of all objects in the value."""
    count, rest = 0, [decoded]
    while rest:
        match rest.pop():
            case dict() as members:
                count += len(members)
                rest += members.values()
            case list() as items:
                rest += items
    return count
