"""Dead letters keep the record, and never grow too large to be published."""

from __future__ import annotations

import pytest

from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Headers, Outgoing, Record, Withheld

BIG = b"x" * 1_200_000


def letter_of(*, key: bytes | None = b"k", value: bytes | None = b"v", headers: Headers = (("h", b"1"),)) -> Outgoing:
    record = Record(
        topic="gw.team.task.in.v1", partition=2, offset=7, timestamp_ms=9, key=key, value=value, headers=headers
    )
    return dead_letter(record, FailureCode.INTERNAL_ERROR, "why")


def test_keeps_the_record_and_says_where_it_came_from() -> None:
    letter = letter_of()
    assert (letter.topic, letter.key, letter.value) == ("gw.team.task.in.v1.dlq", b"k", b"v")
    assert letter.headers[0] == ("h", b"1")
    assert dict(letter.headers) == {
        "h": b"1",
        "guideway_dlq_topic": b"gw.team.task.in.v1",
        "guideway_dlq_partition": b"2",
        "guideway_dlq_offset": b"7",
        "guideway_dlq_timestamp_ms": b"9",
        "guideway_dlq_code": b"internal_error",
        "guideway_dlq_message": b"why",
        "__connect.errors.topic": b"gw.team.task.in.v1",
        "__connect.errors.partition": b"2",
        "__connect.errors.offset": b"7",
        "__connect.errors.exception.class.name": b"internal_error",
        "__connect.errors.exception.message": b"why",
    }


@pytest.mark.parametrize(
    ("parts", "omitted"),
    [
        ({"value": BIG}, b"value"),
        ({"key": BIG}, b"key"),
        ({"headers": [("h", BIG)]}, b"headers"),
        ({"headers": [("\U0001f600" * 300_000, b"")]}, b"headers"),
        ({"key": BIG + b"x", "value": BIG}, b"key,value"),
        ({"key": BIG, "value": None, "headers": [("h", None)]}, b"key"),
    ],
)
def test_leaves_out_what_is_too_large_and_says_so(parts: dict[str, bytes | None], omitted: bytes) -> None:
    letter = letter_of(**parts)  # type: ignore[arg-type]
    assert letter.size_bytes < MAX_RECORD_BYTES
    assert dict(letter.headers)["guideway_dlq_omitted"] == omitted
    assert dict(letter.headers)["guideway_dlq_offset"] == b"7"
    assert letter.key is not None or letter.value is not None
    assert (b"h" in [name.encode() for name, _ in letter.headers]) == (b"headers" not in omitted)


def test_a_record_with_neither_key_nor_value_gets_an_empty_value() -> None:
    assert letter_of(key=None, value=None).value == b""


def test_a_value_that_was_not_read_is_omitted_and_nothing_stands_in_its_place() -> None:
    letter = letter_of(value=Withheld.of(62_000_000))
    assert letter.value is None
    assert ("guideway_dlq_omitted", b"value") in letter.headers
    without = letter_of(value=Withheld.of(62_000_000), headers=[("h", BIG)])
    assert dict(without.headers)["guideway_dlq_omitted"] == b"value,headers"
