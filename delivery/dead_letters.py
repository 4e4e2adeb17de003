"""A record that can be neither used nor answered, kept as it is with where it came from and why."""

from __future__ import annotations

from guideway.schemas import names
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Outgoing, Record


def dead_letter(record: Record, code: FailureCode, message: str) -> Outgoing:
    """The dead letter of `record`: same key, value and headers, and ours after them.

    `message` must not quote the record: dead letters keep a caller's text in one place only.
    """
    origin = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
    }
    ours = {names.DEAD_LETTER_PREFIX + name: value for name, value in origin.items()}
    ours |= {
        names.DEAD_LETTER_PREFIX + "timestamp_ms": str(record.timestamp_ms),
        names.DEAD_LETTER_PREFIX + "code": code.value,
        names.DEAD_LETTER_PREFIX + "message": message,
    }
    connect = {names.CONNECT_ERROR_PREFIX + name: value for name, value in origin.items()}
    connect |= {
        names.CONNECT_ERROR_PREFIX + "exception.class.name": code.value,
        names.CONNECT_ERROR_PREFIX + "exception.message": message,
    }
    added = [(name, value.encode()) for name, value in (ours | connect).items()]
    # aiokafka refuses a record with neither key nor value.
    value = b"" if record.key is None and record.value is None else record.value
    return Outgoing(
        topic=names.dead_letter_topic(record.topic), key=record.key, value=value, headers=[*record.headers, *added]
    )
