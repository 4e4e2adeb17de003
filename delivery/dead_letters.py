"""Makes dead letters: records that can be neither used nor answered, kept with where they came from and why."""

from __future__ import annotations

import msgspec

from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode
from guideway.schemas.names import header
from guideway.schemas.names.topics import dead_letter_topic
from guideway.schemas.record import Outgoing, Record, Withheld


def dead_letter(
    record: Record, code: FailureCode, message: str, *, max_bytes: int = MAX_RECORD_BYTES, without_value: bool = False
) -> Outgoing:
    """The dead letter of `record`: the same key, value and headers, and our headers after them.

    Key, value or headers that would make it larger than `max_bytes` are left out, the largest first, and a header names
    them; they still stand where the record was read. Otherwise one oversized record would hold up its partition for
    ever. `message` must not quote the record: dead letters keep a caller's text in one place only.

    without_value: leave the value out, because the record must not be worked on again: it is answered.
    """
    origin = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
    }
    ours = {header.DEAD_LETTER_PREFIX + name: value for name, value in origin.items()}
    ours |= {
        header.DEAD_LETTER_PREFIX + "timestamp_ms": str(record.timestamp_ms),
        header.DEAD_LETTER_PREFIX + "code": code.value,
        header.DEAD_LETTER_PREFIX + "message": message,
    }
    connect = {header.CONNECT_ERROR_PREFIX + name: value for name, value in origin.items()}
    connect |= {
        header.CONNECT_ERROR_PREFIX + "exception.class.name": code.value,
        header.CONNECT_ERROR_PREFIX + "exception.message": message,
    }
    added = [(name, value.encode()) for name, value in (ours | connect).items()]
    letter = Outgoing(
        topic=dead_letter_topic(record.topic),
        key=record.key,
        value=record.value,
        headers=[*record.headers, *added],
    )
    sizes = {
        "key": len(record.key or b""),
        "value": len(record.value or b""),
        "headers": sum(len(name) + len(one or b"") for name, one in record.headers),
    }
    omitted: list[str] = []
    if without_value or isinstance(record.value, Withheld):
        # A tool that puts letters back must not put back what was not read, nor what stands in its place.
        omitted = ["value"]
        note = (header.DEAD_LETTER_PREFIX + "omitted", b"value")
        letter = msgspec.structs.replace(letter, value=None, headers=[*letter.headers, note])
    for part in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if letter.size_bytes <= max_bytes:
            break
        omitted.append(part)
        note = (header.DEAD_LETTER_PREFIX + "omitted", ",".join(omitted).encode())
        headers = added if "headers" in omitted else [*record.headers, *added]
        emptied = {part: None} if part != "headers" else {}
        letter = msgspec.structs.replace(letter, **emptied, headers=[*headers, note])
    if letter.key is None and letter.value is None:
        # aiokafka refuses a record with neither.
        letter = msgspec.structs.replace(letter, value=b"")
    return letter
