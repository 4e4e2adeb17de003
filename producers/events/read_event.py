"""The envelope of a record on an endpoint's topic → an Event. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from guideway.producers.events.cloud_events import check_binary, structured_content
from guideway.producers.events.contents import content
from guideway.producers.events.counting import names_twice
from guideway.producers.events.envelope import Envelope, invalid_header, readable, text_of
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration
from guideway.schemas.input import InputRule
from guideway.schemas.names import header
from guideway.schemas.record import Record
from guideway.schemas.request import FIRST_DEADLINE_MS, LAST_DEADLINE_MS
from guideway.schemas.retrieval import GuidanceName

GUIDANCE_FORM: Final = "NAMESPACE/NAME or NAMESPACE/NAME@VERSION"
_GENERATION: Final = msgspec.json.Decoder(AskedGeneration)
_CONTENT_ENCODING: Final = "content-encoding"
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "snappy", "lz4", "compress", "base64"})
_NOTHING: Final = AskedGeneration()
_SHOWN_CHARS: Final = 140
_NEARLY_REPLY_TO: Final = frozenset({"replyto", "replytopic", "replytotopic", "kafkareplytopic", "kafkareplyto"})
_NEARLY: Final = {
    **dict.fromkeys(("replypartition", "replytopartition", "kafkareplypartition"), header.SPRING_REPLY_PARTITION),
    **{one: one for one in (header.DEADLINE, header.GENERATION, header.GUIDANCE, header.PARTIAL)},
    "deadlinems": header.DEADLINE,
}
"""The letters of names that are not read, or are not spelt so → what is read."""
_READ: Final = frozenset(
    {header.DEADLINE, header.GENERATION, header.GUIDANCE, header.PARTIAL, *header.REPLY_PARTITION_HEADERS}
)
_MOST_NEAR_CHARS: Final = 30


def read_event(envelope: Envelope, rule: InputRule | None = None) -> Event:
    """The event in this envelope. rule: of its endpoint; None: that is not known yet.

    Raises Refusal: undecodable_event, invalid_header; of Protobuf also missing_field and wrong_field.
    """
    _check_headers(envelope.record)
    found = _content(envelope, rule)
    readable(envelope.callers_id)
    return Event(
        id=envelope.id,
        content=found,
        reply_to=readable(envelope.reply_to),
        reply_message=readable(envelope.reply_message),
        deadline_ms=deadline_ms(envelope.record),
        guidance=_guidance(envelope.record),
        generation=_generation(envelope.record),
        partial=_partial(envelope.record),
    )


def _content(envelope: Envelope, rule: InputRule | None) -> dict[str, Any] | str:
    content_type = readable(envelope.content_type)
    if envelope.cloud_event is not None:
        return structured_content(readable(envelope.cloud_event), rule)
    check_binary(envelope.record)
    readable(envelope.cloud_id)
    return content(envelope.record.value, content_type, rule)


def _check_headers(record: Record) -> None:
    """Raises Refusal(invalid_header) for a header that asks for something which would not happen."""
    if (encoding := text_of(record, _CONTENT_ENCODING).strip().lower()) in _ENCODINGS:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"header {_CONTENT_ENCODING} says that the value is in {encoding}, which is not read: send it as it is, "
            "Kafka can compress",
        )
    for name, value in record.headers:
        if value is None or len(name) > _MOST_NEAR_CHARS:
            continue
        if (meant := _NEARLY.get(_letters(name), "")) and name not in _READ:
            raise Refusal(FailureCode.INVALID_HEADER, f"header {name} is not read, as names are exact: write {meant}")
        if value.startswith(b"gw.") and name not in header.REPLY_TOPIC_HEADERS and _letters(name) in _NEARLY_REPLY_TO:
            raise Refusal(
                FailureCode.INVALID_HEADER,
                f"header {name} is not read, and names a topic as a reply's address does: write {header.REPLY_TO}",
            )


@lru_cache(maxsize=1024)
def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def deadline_ms(record: Record) -> int | None:
    """The event's own deadline, Unix milliseconds. Raises Refusal(invalid_header)."""
    text = text_of(record, header.DEADLINE)
    if not text:
        return None
    if text.isascii() and text.isdigit():
        # The years 1973 to 5138. In other units, today is outside of them.
        if 12 <= len(text.lstrip("0")) <= 14:
            return int(text)
        unit = "seconds" if len(text) < 12 else "microseconds or nanoseconds"
        raise invalid_header(
            header.DEADLINE, f"Unix milliseconds, today 13 digits; it has {len(text)}: are these {unit}?"
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid_header(header.DEADLINE, "Unix milliseconds, or RFC 3339 with an offset")
    ms = int(moment.timestamp() * 1000)
    if ms < FIRST_DEADLINE_MS:
        raise invalid_header(header.DEADLINE, f"later than the year {moment.year:04}: is it a date that was never set?")
    # Clients write the year 9999 for `never`.
    return min(ms, LAST_DEADLINE_MS)


def _partial(record: Record) -> bool:
    match text_of(record, header.PARTIAL):
        case "true":
            return True
        case "" | "false":
            return False
    raise invalid_header(header.PARTIAL, "true, or false")


def no_guidance(text: str) -> str | None:
    """The first of these names, with commas, that no guidance can have, cut for a message; None: there is none."""
    return next((name[:_SHOWN_CHARS] for name in _listed(text) if not _is_guidance(name)), None)


def _guidance(record: Record) -> list[str]:
    listed = _listed(text := text_of(record, header.GUIDANCE))
    if no_guidance(text) is not None:
        raise invalid_header(header.GUIDANCE, f"{GUIDANCE_FORM}, several with commas")
    return listed


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _is_guidance(name: str) -> bool:
    try:
        msgspec.convert(name, GuidanceName)
    except msgspec.ValidationError:
        return False
    return True


def _generation(record: Record) -> AskedGeneration:
    text = text_of(record, header.GENERATION)
    if not text.strip():
        return _NOTHING
    try:
        asked = _GENERATION.decode(text)
        if names_twice(text.encode(), msgspec.json.decode(text)):
            raise invalid_header(header.GENERATION, "each parameter once, for it is not known which is meant")
        return asked
    except (msgspec.DecodeError, RecursionError) as error:
        shown = str(error)[:_SHOWN_CHARS]
        raise invalid_header(
            header.GENERATION,
            f'JSON as {{"temperature": 0.7}}, with {", ".join(AskedGeneration.__struct_fields__)} ({shown})',
        ) from None
