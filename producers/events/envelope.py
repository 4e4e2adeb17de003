"""What the record of an event says beside its content, read once. Pure.

What cannot be read is kept as the Refusal that says why, and whoever needs it raises it. So an event of which a part
cannot be read is still answered under its id, and at its reply address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from guideway.producers.events.accepting import wanted_message
from guideway.producers.events.cloud_events import is_structured, read_cloud_event, structured_id
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.record import Record
from guideway.schemas.request import ReplyAddress

T = TypeVar("T")
MAX_ID_CHARS: Final = 200
MAX_HEADER_BYTES: Final = 16 * 2**10
"""Of a header that is read: nothing that means something is longer, and readers take their time with what is."""
_CLOUD_ID: Final = f"{header.CLOUD_EVENT_PREFIX}id"
_DIGITS: Final = re.compile(rb"[0-9]{1,9}")
_MOST_PARTITIONS: Final = 1_000_000
_FIRST_MS: Final = 10**12
"""September 2001: no event is older."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One event as its record carries it. The event, a cancellation and every refusal are made from it."""

    record: Record
    """As it was read. Its key, its correlation ids and its trace context go with each reply as they are."""
    id: str
    """Whatever comes of the event is told under this id: the caller's where it can be read, else one of ours that stays
    the same however often the record is read."""
    callers_id: str | Refusal
    """The header `request_id`, or the CloudEvent's id; empty: the caller gave none."""
    cloud_id: str | Refusal
    """The CloudEvent's id, however wrong the rest of it is; empty: there is none."""
    content_type: str | Refusal
    """The header as it is; empty: there is none."""
    reply_message: str | Refusal | None
    """The Protobuf message that the reply is to be; empty: any; None: JSON."""
    cloud_event: dict[str, Any] | Refusal | None
    """The attributes and data of a structured CloudEvent, unchecked; None: the value is none."""
    reply_to: ReplyAddress | Refusal | None
    """Where the caller wants its reply; None: it does not say. Whether it may have it there is not looked at."""
    cancels: str | None
    """The id of the request that is to end; None: the event has a value, or no header `cancel` that can be used."""

    def written_ms(self, now_ms: int) -> int:
        """When the event was written, Unix milliseconds, by its record's time; `now_ms` where that is no such time.

        Without a clock a producer says 1970, and so does one that means seconds. A time to come is not believed either.
        """
        return self.record.timestamp_ms if _FIRST_MS <= self.record.timestamp_ms <= now_ms else now_ms


def read_envelope(record: Record) -> Envelope:
    """Never raises."""
    content_type = _or_refusal(lambda: _first_of(record, header.CONTENT_TYPE_HEADERS))
    cloud_event = None
    cloud_id: str | Refusal = ""
    if isinstance(content_type, str) and is_structured(content_type):
        cloud_event = _or_refusal(lambda: read_cloud_event(record.value, content_type))
        cloud_id = (
            structured_id(record.value, content_type) if isinstance(cloud_event, Refusal) else _id_in(cloud_event)
        )
    elif isinstance(content_type, str):
        cloud_id = _or_refusal(lambda: text_of(record, _CLOUD_ID))
    callers_id = _or_refusal(lambda: _callers_id(record, cloud_id if isinstance(cloud_id, str) else ""))
    return Envelope(
        record=record,
        id=(callers_id if isinstance(callers_id, str) else "") or _own_id(record),
        callers_id=callers_id,
        cloud_id=cloud_id,
        content_type=content_type,
        reply_message=_or_refusal(lambda: wanted_message(text_of(record, header.ACCEPT))),
        cloud_event=cloud_event,
        reply_to=_or_refusal(lambda: _reply_to(record)),
        cancels=cancelled_id(record),
    )


def cancelled_id(record: Record) -> str | None:
    """As `Envelope.cancels`, for whoever looks for nothing else in a record. Never raises."""
    if record.value is not None:
        return None
    given = _or_refusal(lambda: text_of(record, header.CANCEL))
    return given if isinstance(given, str) and given and is_id(given) else None


def readable(value: T | Refusal) -> T:
    """The value. Raises the Refusal that stands in its place."""
    if isinstance(value, Refusal):
        raise value
    return value


def is_id(text: str) -> bool:
    """Whether this can be the id of an event."""
    return len(text) <= MAX_ID_CHARS and text.isprintable()


def text_of(record: Record, name: str) -> str:
    """The header's text; empty where there is no such header. Raises Refusal(invalid_header)."""
    value = record.header(name) or b""
    if len(value) > MAX_HEADER_BYTES:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"header {name} has {len(value)} bytes, at most {MAX_HEADER_BYTES} are read: shorten it",
        )
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid_header(name, "UTF-8 text") from None


def _first_of(record: Record, names: Iterable[str]) -> str:
    return next(filter(None, (text_of(record, name) for name in names)), "")


def invalid_header(name: str, form: str) -> Refusal:
    """`form`: what to write."""
    return Refusal(FailureCode.INVALID_HEADER, f"header {name} cannot be read: write {form}")


def _or_refusal(read: Callable[[], T]) -> T | Refusal:
    try:
        return read()
    except Refusal as refusal:
        return refusal


def _id_in(cloud_event: dict[str, Any]) -> str:
    found = cloud_event.get("id")
    return found if isinstance(found, str) else ""


def _callers_id(record: Record, cloud_id: str) -> str:
    given = text_of(record, header.REQUEST_ID) or cloud_id
    if not is_id(given):
        raise invalid_header(
            f"{header.REQUEST_ID} (or the CloudEvent's id)", f"at most {MAX_ID_CHARS} printable characters"
        )
    return given


def _own_id(record: Record) -> str:
    place = f"{record.topic} {record.partition} {record.offset} {record.timestamp_ms}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def _reply_to(record: Record) -> ReplyAddress | None:
    topic = _first_of(record, header.REPLY_TOPIC_HEADERS)
    if not topic:
        return None
    for name in header.REPLY_PARTITION_HEADERS:
        if (partition := record.header(name)) is not None:
            return ReplyAddress(topic=topic, partition=_partition(name, partition))
    return ReplyAddress(topic=topic)


def _partition(name: str, given: bytes) -> int:
    # Digits first: four of them, read as bytes, would be a partition that no topic has.
    if _DIGITS.fullmatch(given):
        return int(given)
    if len(given) != 4 or given[0] & 0x80:
        raise invalid_header(name, "four bytes, big-endian, not negative, or decimal digits")
    number = int.from_bytes(given, "big")
    if number > _MOST_PARTITIONS:
        swapped = int.from_bytes(given, "little")
        # Texts of four letters, and numbers from machines that write the last byte first.
        meant = f"; are these {swapped}, little-endian?" if swapped <= _MOST_PARTITIONS else f"; these are {given!r}"
        raise invalid_header(name, f"four bytes, big-endian, not negative, or decimal digits{meant}")
    return number
