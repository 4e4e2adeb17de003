"""The envelope of a record on an endpoint's topic → an Event. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

import msgspec

from guideway.producers.events.cloud_events import check_binary, structured_content
from guideway.producers.events.contents import content
from guideway.producers.events.envelope import Envelope, invalid_header, readable, text_of
from guideway.schemas import names
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.schemas.retrieval import GuidanceName

_GUIDANCE: Final = msgspec.json.Decoder(list[GuidanceName])
_CONTENT_ENCODING: Final = "content-encoding"
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "snappy", "lz4", "compress", "base64"})
_NEARLY_REPLY_TO: Final = frozenset({"replyto", "replytopic", "replytotopic", "kafkareplytopic", "kafkareplyto"})
_FIRST_DEADLINE_MS: Final = 10**11
"""The year 1973, as for deadlines in digits."""


def read_event(envelope: Envelope) -> Event:
    """The event in this envelope. Raises Refusal(undecodable_event | invalid_header)."""
    _check_headers(envelope.record)
    found = _content(envelope)
    readable(envelope.callers_id)
    return Event(
        id=envelope.id,
        content=found,
        reply_to=readable(envelope.reply_to),
        deadline_ms=_deadline_ms(envelope.record),
        guidance=_guidance(envelope.record),
    )


def _content(envelope: Envelope) -> dict[str, Any] | str:
    content_type = readable(envelope.content_type)
    if envelope.cloud_event is not None:
        return structured_content(readable(envelope.cloud_event))
    check_binary(envelope.record)
    readable(envelope.cloud_id)
    return content(envelope.record.value, content_type)


def _check_headers(record: Record) -> None:
    """Raises Refusal(invalid_header) for a header that asks for something which would not happen."""
    if (encoding := text_of(record, _CONTENT_ENCODING).strip().lower()) in _ENCODINGS:
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


def _deadline_ms(record: Record) -> int | None:
    text = text_of(record, names.DEADLINE)
    if not text:
        return None
    if text.isascii() and text.isdigit():
        # The years 1973 to 5138. In other units, today is outside of them.
        if 12 <= len(text.lstrip("0")) <= 14:
            return int(text)
        unit = "seconds" if len(text) < 12 else "microseconds or nanoseconds"
        raise invalid_header(
            names.DEADLINE, f"Unix milliseconds, today 13 digits; it has {len(text)}: are these {unit}?"
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid_header(names.DEADLINE, "Unix milliseconds, or RFC 3339 with an offset")
    ms = int(moment.timestamp() * 1000)
    if ms < _FIRST_DEADLINE_MS:
        raise invalid_header(names.DEADLINE, f"later than the year {moment.year:04}: is it a date that was never set?")
    return ms


def _guidance(record: Record) -> list[str]:
    listed = [name.strip() for name in text_of(record, names.GUIDANCE).split(",") if name.strip()]
    try:
        return _GUIDANCE.decode(msgspec.json.encode(listed))
    except msgspec.ValidationError:
        raise invalid_header(names.GUIDANCE, "NAMESPACE/NAME or NAMESPACE/NAME@VERSION, several with commas") from None
