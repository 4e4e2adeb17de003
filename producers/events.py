"""A Kafka record on an endpoint's topic → an Event. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import datetime
from typing import Any, Final

import msgspec

from guideway.schemas import names
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.schemas.request import ReplyAddress
from guideway.schemas.retrieval import GuidanceName

_JSON: Final = msgspec.json.Decoder()
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_GUIDANCE: Final = msgspec.json.Decoder(list[GuidanceName])
MAX_ID_CHARS: Final = 200


def read_event(record: Record) -> Event:
    """Raises Refusal(undecodable_event | invalid_header)."""
    if _is_structured(record):
        envelope = _envelope(record)
        content, cloud_id = _structured_content(envelope), str(envelope["id"])
    else:
        content = _content(record.value, _text(record, names.CONTENT_TYPE).lower())
        cloud_id = _text(record, f"{names.CLOUD_EVENT_PREFIX}id")
    return Event(
        id=_id(record, cloud_id),
        content=content,
        reply_to=read_reply_address(record),
        deadline_ms=_deadline_ms(record),
        guidance=_guidance(record),
    )


def cancelled_id(record: Record) -> str | None:
    """The request that this event cancels, or None if it is none that cancels: it has a value, or no usable header."""
    if record.value is not None:
        return None
    try:
        given = _text(record, names.CANCEL)
    except Refusal:
        return None
    return given if given and is_id(given) else None


def is_id(text: str) -> bool:
    """Whether this can be the id of an event."""
    return len(text) <= MAX_ID_CHARS and text.isprintable()


def refused_id(record: Record) -> str:
    """The id under which a refusal is answered: the caller's where it can be read, else ours. Never raises."""
    try:
        cloud_id = _envelope(record)["id"] if _is_structured(record) else _text(record, f"{names.CLOUD_EVENT_PREFIX}id")
    except Refusal:
        cloud_id = ""
    try:
        return _id(record, cloud_id)
    except Refusal:
        return _own_id(record)


def _id(record: Record, cloud_id: str) -> str:
    """The caller's id, else one that stays the same however often this record is read."""
    given = _text(record, names.REQUEST_ID) or cloud_id
    if not is_id(given):
        raise _invalid(f"{names.REQUEST_ID} (or the CloudEvent's id)", f"at most {MAX_ID_CHARS} printable characters")
    return given or _own_id(record)


def _own_id(record: Record) -> str:
    place = f"{record.topic} {record.partition} {record.offset} {record.timestamp_ms}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def read_reply_address(record: Record) -> ReplyAddress | None:
    """Where the caller wants its reply. Raises Refusal(invalid_header)."""
    topic = _text(record, names.REPLY_TO) or _text(record, names.SPRING_REPLY_TOPIC)
    if not topic:
        return None
    partition = record.header(names.SPRING_REPLY_PARTITION)
    if partition is None:
        return ReplyAddress(topic=topic)
    if len(partition) != 4 or partition[0] & 0x80:
        raise _invalid(names.SPRING_REPLY_PARTITION, "four bytes, big-endian, not negative")
    return ReplyAddress(topic=topic, partition=int.from_bytes(partition, "big"))


def _is_structured(record: Record) -> bool:
    return _text(record, names.CONTENT_TYPE).lower().startswith(names.CLOUD_EVENT_STRUCTURED)


def _envelope(record: Record) -> dict[str, Any]:
    """A structured CloudEvent with an `id`."""
    envelope = _json(record.value)
    if not isinstance(envelope, dict) or not isinstance(envelope.get("id"), str) or "specversion" not in envelope:
        raise _undecodable("a structured CloudEvent is a JSON object with `specversion`, `id` and `data`")
    return envelope


def _structured_content(envelope: dict[str, Any]) -> dict[str, Any] | str:
    if "data_base64" in envelope:
        try:
            data = base64.b64decode(envelope["data_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise _undecodable("`data_base64` is not base64") from None
        return _content(data, str(envelope.get("datacontenttype", "")).lower())
    content = envelope.get("data")
    if not isinstance(content, dict | str):
        raise _undecodable("a CloudEvent's `data` is a JSON object of fields, or a string")
    return content


def _content(value: bytes | None, content_type: str) -> dict[str, Any] | str:
    """Fields or text. Without a content type, a value that begins with `{` is JSON and any other is text."""
    if value is None:
        raise _undecodable(
            "the value is null: publish a JSON object of fields, or text; "
            f"to cancel a request, name its id in the header {names.CANCEL}"
        )
    media, _, _ = content_type.partition(";")
    media = media.strip()
    is_json = media == "application/json" or media.endswith("+json")
    if media and not is_json and media != "text/plain":
        raise _undecodable(f"content type {media[:60]!r} is not understood: send application/json or text/plain")
    if value[:1] == b"\x00" and len(value) > 5 and not media.startswith("text/"):
        # Confluent framing: a zero byte and a four-byte schema id before the JSON.
        value, is_json = value[5:], True
    if is_json or (not media and value.lstrip()[:1] == b"{"):
        content = _json(value)
        if isinstance(content, dict | str):
            return content
        raise _undecodable("the JSON is neither an object of fields nor a string")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise _undecodable("the value is neither JSON nor UTF-8 text") from None


def _json(value: bytes | None) -> Any:
    value = value or b""
    try:
        decoded = _JSON.decode(value)
    except RecursionError:
        raise _undecodable("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _undecodable(f"the value is not JSON: {error}") from None
    # Outside of strings a colon stands once for each member, and of those with one name the decoder keeps one.
    if _STRING.sub(b"", value).count(b":") != _members(decoded):
        raise _undecodable("a JSON object names a member twice, and it is not known which is meant: name each once")
    return decoded


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


def _deadline_ms(record: Record) -> int | None:
    text = _text(record, names.DEADLINE)
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _invalid(names.DEADLINE, "Unix milliseconds, or RFC 3339 with an offset")
    return int(moment.timestamp() * 1000)


def _guidance(record: Record) -> list[str]:
    listed = [name.strip() for name in _text(record, names.GUIDANCE).split(",") if name.strip()]
    try:
        return _GUIDANCE.decode(msgspec.json.encode(listed))
    except msgspec.ValidationError:
        raise _invalid(names.GUIDANCE, "NAMESPACE/NAME or NAMESPACE/NAME@VERSION, several with commas") from None


def _text(record: Record, name: str) -> str:
    try:
        return (record.header(name) or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid(name, "UTF-8 text") from None


def _undecodable(message: str) -> Refusal:
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)


def _invalid(header: str, form: str) -> Refusal:
    return Refusal(FailureCode.INVALID_HEADER, f"header {header} must be {form}")
