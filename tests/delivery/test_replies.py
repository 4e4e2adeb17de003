"""Replies as records: headers, addresses, and what happens to a result that is too large."""

from __future__ import annotations

import msgspec
import pytest

from guideway.delivery.replies import reply_records
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed, Sample, Usage
from guideway.schemas.request import ReplyAddress
from guideway.schemas.wire import REPLY

ADDRESSES = [ReplyAddress(topic="gw.team.mine.out.v1", partition=3), ReplyAddress(topic="gw.team.other.out.v1")]
RECORD = Record(
    topic="gw.infer.small.interactive.v1",
    partition=0,
    offset=0,
    timestamp_ms=0,
    key=b"\x00key",
    value=b"",
    headers=[("correlation_id", b"\xff\x00"), ("correlation_id", None), ("traceparent", b"00-1"), ("secret", b"s")],
)


def completed(text: str) -> Completed:
    return Completed(
        id="r-1",
        namespace="team",
        endpoint="task",
        endpoint_version=1,
        samples=[Sample(value=text, text=text, finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="sha256:" + "0" * 64,
    )


def test_a_correlation_id_comes_back_under_the_callers_own_spelling() -> None:
    given = [("correlationId", b"1"), ("X-Correlation-Id", b"\xff"), ("correlations", b"2")]
    (out,) = reply_records(completed("yes"), ADDRESSES[:1], msgspec.structs.replace(RECORD, headers=given))
    assert [one for one in out.headers if one in given] == given[:2]


def test_every_address_gets_the_result_with_key_and_echoed_headers() -> None:
    records = reply_records(completed("yes"), ADDRESSES, RECORD)
    assert [(out.topic, out.partition, out.key) for out in records] == [
        ("gw.team.mine.out.v1", 3, b"\x00key"),
        ("gw.team.other.out.v1", None, b"\x00key"),
    ]
    for out in records:
        assert out.headers[:3] == [("correlation_id", b"\xff\x00"), ("correlation_id", None), ("traceparent", b"00-1")]
        assert dict(out.headers[3:]) == {
            "content-type": b"application/json",
            "request_id": b"r-1",
            "guideway_status": b"completed",
            "ce_specversion": b"1.0",
            "ce_id": b"r-1",
            "ce_source": b"/team/task",
            "ce_type": b"guideway.reply.completed.v1",
        }


def test_a_result_too_large_fails_to_the_caller_alone() -> None:
    (only,) = reply_records(completed("x" * 1_100_000), ADDRESSES, RECORD)
    reply = REPLY.decode(only.value)
    assert isinstance(reply, Failed)
    assert (only.topic, reply.code.value, reply.id) == ("gw.team.mine.out.v1", "reply_too_large", "r-1")
    assert dict(only.headers)["guideway_failure_code"] == b"reply_too_large"


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ([("a", None), ("a", None)], [("a", None)]),
        ([("a", 3), ("b", None), ("a", None)], [("a", 3), ("b", None)]),
        ([("a", None), ("a", 3)], [("a", 3)]),
        ([("a", 1), ("a", 2), ("a", 1)], [("a", 1), ("a", 2)]),
        ([("b", None), ("a", None), ("b", None), ("a", None)], [("b", None), ("a", None)]),
    ],
)
def test_each_place_gets_one_reply(given: list[tuple[str, int | None]], places: list[tuple[str, int | None]]) -> None:
    addresses = [ReplyAddress(topic=topic, partition=partition) for topic, partition in given]
    records = reply_records(completed("yes"), addresses, RECORD)
    assert [(out.topic, out.partition) for out in records] == places


def test_what_makes_a_record_too_large_is_said() -> None:
    long = completed("x" * 1_000_000)
    by_text = reply_records(long, ADDRESSES, RECORD)[0]
    assert "lower the endpoint's max_tokens" in REPLY.decode(by_text.value).message  # type: ignore[union-attr]
    loaded = msgspec.structs.replace(RECORD, headers=[("correlation_id", b"x" * 999_500)])
    by_headers = reply_records(completed("yes"), ADDRESSES, loaded)[0]
    message = REPLY.decode(by_headers.value).message  # type: ignore[union-attr]
    assert "are the event's own key and echoed headers" in message
    assert "max_tokens" not in message
