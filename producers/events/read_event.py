"""A Kafka record on an endpoint's topic → an Event. Pure."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final

import msgspec

from guideway.producers.events.cloud_events import check_binary, is_structured, read_structured, structured_id
from guideway.producers.events.contents import content
from guideway.schemas import names
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.schemas.request import ReplyAddress
from guideway.schemas.retrieval import GuidanceName

_CLOUD_ID: Final = f"{names.CLOUD_EVENT_PREFIX}id"
_DIGITS: Final = re.compile(rb"[0-9]{1,9}")
_GUIDANCE: Final = msgspec.json.Decoder(list[GuidanceName])
MAX_ID_CHARS: Final = 200
_CONTENT_ENCODING: Final = "content-encoding"
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "snappy", "lz4", "compress", "base64"})
_NEARLY_REPLY_TO: Final = frozenset({"replyto", "replytopic", "replytotopic", "kafkareplytopic", "kafkareplyto"})
_MOST_PARTITIONS: Final = 1_000_000
_FIRST_DEADLINE_MS: Final = 10**11
"""1973, as for those in digits."""
_FIRST_MS: Final = 10**12
"""September 2001: no event is older."""


def read_event(record: Record) -> Event:
    """Raises Refusal(undecodable_event | invalid_header)."""
    _check_headers(record)
    content_type = _text(record, names.CONTENT_TYPE)
    if is_structured(content_type):
        cloud_id, found = read_structured(record.value, content_type)
    else:
        check_binary(record)
        cloud_id, found = _text(record, _CLOUD_ID), content(record.value, content_type)
    return Event(
        id=_id(record, cloud_id),
        content=found,
        reply_to=read_reply_address(record),
        deadline_ms=_deadline_ms(record),
        guidance=_guidance(record),
    )


def _check_headers(record: Record) -> None:
    """Raises Refusal(invalid_header) for those whose sender means something by them that would not happen."""
    if (encoding := _text(record, _CONTENT_ENCODING).strip().lower()) in _ENCODINGS:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"header {_CONTENT_ENCODING} says that the value is in {encoding}, which is not read: send it as it is, "
            "Kafka can compress",
        )
    for name, value in record.headers:
        if value is not None and value.startswith(b"gw.") and name not in names.REPLY_TOPIC_HEADERS:
            plain = re.sub(r"[^a-z]", "", name.lower())
            if plain in _NEARLY_REPLY_TO:
                raise Refusal(
                    FailureCode.INVALID_HEADER,
                    f"header {name} is not read, and names a topic as a reply's address does: write {names.REPLY_TO}",
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


def written_ms(record: Record, now_ms: int) -> int:
    """When the event was written, Unix time in milliseconds, by its record's time; `now_ms` where that is no such time.

    Without a clock a producer says 1970, and so does one that means seconds; what is to come is not believed either.
    """
    return record.timestamp_ms if _FIRST_MS <= record.timestamp_ms <= now_ms else now_ms


def refused_id(record: Record) -> str:
    """The id under which a refusal is answered: the caller's where it can be read, else ours. Never raises."""
    try:
        structured = is_structured(_text(record, names.CONTENT_TYPE))
        cloud_id = structured_id(record.value) if structured else _text(record, _CLOUD_ID)
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
    topic = next(filter(None, (_text(record, name) for name in names.REPLY_TOPIC_HEADERS)), "")
    if not topic:
        return None
    for name in names.REPLY_PARTITION_HEADERS:
        if (partition := record.header(name)) is not None:
            return ReplyAddress(topic=topic, partition=_partition(name, partition))
    return ReplyAddress(topic=topic)


def _partition(name: str, given: bytes) -> int:
    # Digits first: four of them, read as bytes, would be a partition that no topic has.
    if _DIGITS.fullmatch(given):
        return int(given)
    if len(given) != 4 or given[0] & 0x80:
        raise _invalid(name, "four bytes, big-endian, not negative, or decimal digits")
    number = int.from_bytes(given, "big")
    if number > _MOST_PARTITIONS:
        swapped = int.from_bytes(given, "little")
        # Texts of four letters, and numbers from machines that write the last byte first.
        meant = f"; are these {swapped}, little-endian?" if swapped <= _MOST_PARTITIONS else f"; these are {given!r}"
        raise _invalid(name, f"four bytes, big-endian, not negative, or decimal digits{meant}")
    return number


def _deadline_ms(record: Record) -> int | None:
    text = _text(record, names.DEADLINE)
    if not text:
        return None
    if text.isascii() and text.isdigit():
        # The years 1973 to 5138. In other units, today is outside of them.
        if 12 <= len(text.lstrip("0")) <= 14:
            return int(text)
        unit = "seconds" if len(text) < 12 else "microseconds or nanoseconds"
        raise _invalid(names.DEADLINE, f"Unix milliseconds, today 13 digits; it has {len(text)}: are these {unit}?")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _invalid(names.DEADLINE, "Unix milliseconds, or RFC 3339 with an offset")
    ms = int(moment.timestamp() * 1000)
    if ms < _FIRST_DEADLINE_MS:
        raise _invalid(names.DEADLINE, f"later than the year {moment.year:04}: is it a date that was never set?")
    return ms


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


def _invalid(header: str, form: str) -> Refusal:
    return Refusal(FailureCode.INVALID_HEADER, f"header {header} cannot be read: write {form}")
