"""The bytes of an event → fields or text. What declares them decides, never a guess. Pure."""

from __future__ import annotations

import codecs
import encodings.aliases
import functools
import pkgutil
import re
from email.message import Message
from typing import Any, Final

import msgspec

from guideway.producers.events.counting import has_too_many, names_twice
from guideway.producers.events.protobuf.event import check_undeclared, is_framed, message_fields
from guideway.producers.events.protobuf.framing import MAX_TYPE_CHARS, is_protobuf
from guideway.producers.events.protobuf.weighing import MOST_VALUES
from guideway.producers.events.unseen import before_object, is_unseen, named, seen
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.names import header

_JSON: Final = msgspec.json.Decoder()
MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose mark begins alike.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""How texts begin that say their encoding."""
_COMPRESSED: Final = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"x\x9c", "zlib"))
_BINARY: Final = re.compile(r"[\x01-\x06\x0e-\x1a\x1c-\x1f]")
"""Characters that no text of people holds, and that Avro, Protobuf and MessagePack do. ESC is none: it colours logs."""
_NOT_FOR_TEXT: Final = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined"})
"""Codecs of Python's for other uses: they take long, or make other characters of a text."""
_CHARSETS: Final = {*encodings.aliases.aliases, *(one.name for one in pkgutil.iter_modules(encodings.__path__))}
_KEPT_CHARS: Final = 200
_CONFLUENT_BYTES: Final = 5
"""A zero byte and a four-byte schema id."""
_APICURIO_BYTES: Final = 9
"""A zero byte and an eight-byte schema id."""
_GLUE_BYTES: Final = 18
"""Version 3, how it is compressed (0: not), and a schema id of 16 bytes."""


def content(value: bytes | None, content_type: str, rule: InputRule | None = None) -> dict[str, Any] | str:
    """Fields or text. Without a content type, a value that begins with `{` is JSON and any other is text.

    rule: of the endpoint, which says what message Protobuf is; None: the endpoint is not known.
    Raises Refusal: undecodable_event; of Protobuf also missing_field and wrong_field.
    """
    if value is None:
        raise undecodable(
            "the value is null: publish a JSON object of fields, or text; "
            f"to cancel a request, name its id in the header {header.CANCEL}"
        )
    media, charset = _declared(content_type)
    if is_protobuf(media) or (not media and is_framed(value, rule)):
        return message_fields(value, content_type, rule)
    if not media:
        check_undeclared(value, rule)
    is_json = media in ("application/json", "text/json") or media.endswith("+json")
    if media and not is_json and media != "text/plain":
        raise undecodable(
            f"content type {media[:60]!r} is not understood: send application/json, text/plain or application/protobuf"
        )
    if media != "text/plain":
        plain = _without_frame(value)
        value, is_json = plain, is_json or plain is not value
    value = as_utf8(value, charset)
    if is_json or (not media and value.lstrip()[:1] == b"{"):
        return _from_json_value(value)
    text = value.decode()
    if not media:
        _check_undeclared(text)
    return text


def from_json(value: bytes | None, *, instead: str = "") -> Any:
    """The decoded value. instead: what else may be sent, for messages.

    Raises Refusal(undecodable_event), also for an object that names a member twice.
    """
    value = (value or b"").removeprefix(codecs.BOM_UTF8)
    if not value.strip():
        raise undecodable("the value is empty, and no JSON: send an object")
    if has_too_many(value):
        raise undecodable(f"the JSON has more than {MOST_VALUES} values: send less in one event")
    try:
        decoded = _JSON.decode(value)
    except RecursionError:
        raise undecodable("the JSON is nested too deeply: flatten it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise undecodable(f"the value is not JSON ({error}{_likely(value, str(error))}): correct it{instead}") from None
    if names_twice(value, decoded):
        raise undecodable("a JSON object names a member twice, and it is not known which is meant: name each once")
    return decoded


def check_content(text: str) -> str:
    """The text. Raises Refusal(undecodable_event) for JSON that was made a string of JSON, as by encoding it twice."""
    if (bare := seen(text))[:1] == "{" and not has_too_many(bare.encode()):
        try:
            twice = isinstance(_JSON.decode(bare), dict)
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
    decoded = from_json(value, instead=", or send text with the content type text/plain")
    if isinstance(decoded, str):
        return check_content(decoded)
    if isinstance(decoded, dict):
        return decoded
    if isinstance(decoded, list) and any(isinstance(one, dict) for one in decoded):
        raise undecodable("the JSON is an array of objects: publish one event a record")
    raise undecodable("the JSON is neither an object of fields nor a string: send one of these")


def check_begins(text: str) -> None:
    """Raises Refusal(undecodable_event) for what looks like an object, after a character that JSON does not have."""
    if unseen := before_object(text):
        raise undecodable(
            f"the value begins like a JSON object, and before it has {named(unseen)}, which nobody sees and JSON does "
            "not have there: remove it; what is meant as text goes into a field, or has the content type text/plain"
        )


def _check_undeclared(text: str) -> None:
    """Check a value without a content type that would be read as text. Raises Refusal(undecodable_event)."""
    check_begins(text)
    bare = seen(text)
    if bare[:1] in ("[", '"'):
        if has_too_many(bare.encode()):
            raise undecodable(
                f"the value begins like JSON, and has more than {MOST_VALUES} values: send less in one event; if it is "
                "text, declare the content type text/plain"
            )
        try:
            decoded = _JSON.decode(bare)
        except (msgspec.DecodeError, RecursionError):
            return
        if isinstance(decoded, str):
            check_content(decoded)
        elif isinstance(decoded, list) and any(isinstance(one, dict) for one in decoded):
            raise undecodable(
                "the value is a JSON array of objects: publish one event a record; if it is text, declare the content "
                "type text/plain"
            )
    elif found := _BINARY.search(text):
        raise undecodable(
            f"the value holds the control character {found[0]!r}, as binary forms do: if it is Protobuf, declare the "
            "content type application/protobuf; if it is text, text/plain; Avro and MessagePack are not read"
        )


def _likely(value: bytes, error: str) -> str:
    """The most frequent cause of such an error of the decoder's; empty if none is known."""
    found = re.search(r"byte (\d+)", error)
    at = int(found[1]) if found else len(value)
    if "truncated" in error and re.search(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", value):
        return ": half of a surrogate pair is no character"
    if value[at:].lstrip(b"-")[:3] in (b"NaN", b"Inf"):
        return ": NaN and Infinity are no JSON, write null"
    if value[at : at + 2] in (b"//", b"/*") or value[at - 1 : at + 1] in (b"//", b"/*"):
        return ": JSON has no comments"
    if "trailing characters" in error and value[at - 1 : at] in (b"{", b"["):
        return ": it holds several values, publish one event a record"
    # Of what follows a value, the place after its first byte is told.
    first = at - ("trailing characters" in error)
    return _of_char(value[first : first + 4].decode(errors="ignore")[:1])


def _of_char(char: str) -> str:
    """Why no JSON has this character where it stands; empty if that is not known."""
    if char and char in "'\u2018\u2019\u201c\u201d\u201e":
        return f": names and texts stand in {'' if char == chr(39) else 'straight '}double quotes"
    return f": {named(char)} is no white space of JSON" if is_unseen(char) else ""


def _declared(content_type: str) -> tuple[str, str]:
    if len(content_type) > MAX_TYPE_CHARS:
        raise undecodable(
            f"the content type has {len(content_type)} characters, at most {MAX_TYPE_CHARS} are read: shorten it"
        )
    # A long one would take memory for nothing.
    return _parsed(content_type) if len(content_type) <= _KEPT_CHARS else _parsed.__wrapped__(content_type)


@functools.lru_cache(maxsize=1024)
def _parsed(content_type: str) -> tuple[str, str]:
    """(media type, charset) of a content type, in lower case; empty where it names none."""
    message = Message()
    message["content-type"] = content_type
    media, _, parameters = content_type.partition(";")
    try:
        charset = message.get_content_charset() or ""
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
                "the value has the frame of a schema registry, and no JSON after it: Avro is not read, publish JSON; "
                "Protobuf is read by endpoints that declare a message"
            )
    if value[:1] == b"\x03" and len(value) > _GLUE_BYTES:
        if value[1] != 0:
            raise undecodable(
                "the value has the frame of the Glue schema registry and is compressed by it: switch that off, Kafka "
                "can compress"
            )
        if value[_GLUE_BYTES:].lstrip()[:1] not in {b"{", b'"'}:
            raise undecodable(
                "the value has the frame of the Glue schema registry, and no JSON after it: neither Avro nor "
                "Protobuf is read in it, publish JSON"
            )
        return value[_GLUE_BYTES:]
    return value


def as_utf8(value: bytes, charset: str) -> bytes:
    """The text in UTF-8, without a byte order mark. Raises Refusal(undecodable_event)."""
    for begin, what in _COMPRESSED:
        if value.startswith(begin):
            raise undecodable(f"the value is compressed with {what}: send it as it is, Kafka can compress")
    mark, marked = next(((mark, name) for mark, name in MARKS if value.startswith(mark)), (b"", ""))
    try:
        codec = codecs.lookup(marked or _known(charset) or "utf-8")
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


def _known(charset: str) -> str:
    """The charset. Raises LookupError for one that Python has not, which it would remember for ever if it was asked."""
    plain = encodings.normalize_encoding(charset).lower()
    if charset and not {plain, plain.replace(".", "_")} & _CHARSETS:
        raise LookupError
    return charset
