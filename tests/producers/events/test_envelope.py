"""What records say of events beside their content: ids, reply addresses, cancellations, times."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from guideway.producers.events.envelope import cancelled_id, read_envelope, readable
from guideway.producers.events.read_event import read_event
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record, Withheld
from guideway.schemas.request import ReplyAddress

MakeRecord = Callable[..., Record]
NOW = 1_700_000_000_000


def event_of(record: Record) -> Event:
    return read_event(read_envelope(record))


def test_the_callers_id_wins_and_ours_stays_the_same(make_record: MakeRecord) -> None:
    assert event_of(make_record(request_id="mine", ce_id="other")).id == "mine"
    assert event_of(make_record()).id == event_of(make_record()).id


def test_a_refusal_is_answered_under_the_callers_id_where_there_is_one(make_record: MakeRecord) -> None:
    structured = b'{"specversion": "1.0", "id": "e-3", "data": 7}'
    assert read_envelope(make_record(b"[1]", ce_id="e-1", content__type="application/json")).id == "e-1"
    assert read_envelope(make_record(b"[1]", request_id="mine", ce_id="e-1")).id == "mine"
    assert read_envelope(make_record(structured, content__type="application/cloudevents+json")).id == "e-3"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"request_id": "y" * 201},
        {"request_id": b"\xff"},
        {"ce_id": b"\xff"},
        {"content__type": b"\xff"},
        {"content__type": "application/cloudevents+json"},
    ],
)
def test_a_refusal_has_an_id_even_where_the_callers_cannot_be_read(
    make_record: MakeRecord, headers: dict[str, str | bytes]
) -> None:
    assert read_envelope(make_record(b"{", **headers)).id == event_of(make_record()).id


def test_reply_addresses_of_both_kinds(make_record: MakeRecord) -> None:
    assert event_of(make_record(reply_to="a")).reply_to == ReplyAddress(topic="a")
    spring = make_record(kafka_replyTopic="b", kafka_replyPartition=b"\x00\x00\x00\x03")
    assert event_of(spring).reply_to == ReplyAddress(topic="b", partition=3)


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"kafka_replyTopic": "b", "kafka_replyPartition": "0"}, ReplyAddress(topic="b", partition=0)),
        ({"kafka_replyTopic": "b", "kafka_replyPartition": "1234"}, ReplyAddress(topic="b", partition=1234)),
        ({"REPLY_TOPIC": "c", "REPLY_PARTITION": b"\x00\x00\x00\x05"}, ReplyAddress(topic="c", partition=5)),
        ({"REPLY_TOPIC": "c"}, ReplyAddress(topic="c")),
        ({"REPLY_TOPIC": "c", "reply_to": "a"}, ReplyAddress(topic="a")),
        ({"REPLY_PARTITION": b"\x00\x00\x00\x05"}, None),
    ],
)
def test_reply_addresses_as_nestjs_and_smallrye_write_them(
    make_record: MakeRecord, headers: dict[str, str | bytes], address: ReplyAddress | None
) -> None:
    assert event_of(make_record(**headers)).reply_to == address


def test_a_tombstone_request_names_what_it_cancels(make_record: MakeRecord) -> None:
    assert read_envelope(make_record(None, cancel="order-17")).cancels == "order-17"
    assert read_envelope(make_record(None, cancel="schön", content__type="application/json")).cancels == "schön"
    assert read_envelope(make_record(b"hello", cancel="order-17")).cancels is None, "an event like any other"
    assert event_of(make_record(b"hello", cancel="order-17")).content == "hello"


@pytest.mark.parametrize(
    "headers", [{}, {"cancel": ""}, {"cancel": b"\xff"}, {"cancel": "y" * 201}, {"cancel": "a\nb"}]
)
def test_a_tombstone_without_a_usable_header_is_undecodable(
    make_record: MakeRecord, headers: dict[str, str | bytes]
) -> None:
    record = make_record(None, **headers)
    assert (cancelled_id(record), read_envelope(record).cancels) == (None, None)
    with pytest.raises(Refusal, match="in the header cancel") as caught:
        event_of(record)
    assert caught.value.code is FailureCode.UNDECODABLE_EVENT


@pytest.mark.parametrize(
    ("says", "written"),
    [
        pytest.param(NOW - 3_600_000, NOW - 3_600_000, id="an hour ago"),
        pytest.param(NOW, NOW, id="now"),
        pytest.param(NOW + 1, NOW, id="a clock that is ahead"),
        pytest.param(2**62, NOW, id="absurd"),
        pytest.param(0, NOW, id="no clock"),
        pytest.param(NOW // 1000, NOW, id="seconds"),
        pytest.param(-1, NOW, id="no time at all"),
    ],
)
def test_when_an_event_was_written(make_record: MakeRecord, says: int, written: int) -> None:
    record = msgspec.structs.replace(make_record(b"x"), timestamp_ms=says)
    assert read_envelope(record).written_ms(NOW) == written


def test_an_event_whose_value_was_too_large_to_be_read_is_none_that_cancels_and_has_its_callers_address(
    make_record: MakeRecord,
) -> None:
    headers = {"cancel": "17", "request_id": "r", "reply_to": "gw.team.mine.out.v1"}
    for media in ("text/plain", "application/json", ""):
        record = msgspec.structs.replace(
            make_record(b"x", **headers, **{"content-type": media}), value=Withheld.of(62_000_000)
        )
        assert (cancelled_id(record), read_envelope(record).cancels) == (None, None)
        assert read_envelope(record).id == "r"
        assert read_envelope(record).reply_to == ReplyAddress(topic="gw.team.mine.out.v1")
        with pytest.raises(Refusal):
            event_of(record)


def test_what_cannot_be_read_is_kept_as_its_refusal(make_record: MakeRecord) -> None:
    headers = {"request_id": "r\n", "reply_to": b"\xff", "content__type": b"\xff", "ce_id": "e"}
    envelope = read_envelope(make_record(**headers))
    for unreadable in (envelope.callers_id, envelope.reply_to, envelope.content_type):
        assert isinstance(unreadable, Refusal)
        assert unreadable.code is FailureCode.INVALID_HEADER
        with pytest.raises(Refusal) as caught:
            readable(unreadable)
        assert caught.value is unreadable


def test_an_event_that_is_refused_keeps_its_id_and_its_reply_address(make_record: MakeRecord) -> None:
    envelope = read_envelope(make_record(b"{", request_id="r", reply_to="t", deadline="tomorrow"))
    assert (envelope.id, envelope.reply_to) == ("r", ReplyAddress(topic="t"))
    with pytest.raises(Refusal):
        read_event(envelope)


@pytest.mark.parametrize("name", ["content__type", "accept", "request_id", "guidance", "generation", "deadline"])
def test_a_header_of_megabytes_is_refused_at_once(make_record: MakeRecord, name: str) -> None:
    began = time.thread_time()
    envelope = read_envelope(make_record(b"hello", reply_to="t", **{name: "application/protobuf" + " ;" * 2_000_000}))
    with pytest.raises(Refusal, match="has 4000020 bytes, at most 16384 are read: shorten it"):
        read_event(envelope)
    assert time.thread_time() - began < 1
    assert envelope.reply_to == ReplyAddress(topic="t")


@pytest.mark.parametrize("charset", ["utf-16", "utf-99"])
def test_a_cloud_events_id_is_found_by_its_charset_or_without_it(make_record: MakeRecord, charset: str) -> None:
    value = '{"specversion": "1.0", "id": "schön"}'.encode("utf-8" if charset == "utf-99" else charset)
    envelope = read_envelope(make_record(value, content__type=f"application/cloudevents+json; charset={charset}"))
    assert envelope.id == "schön"
    with pytest.raises(Refusal, match="unknown" if charset == "utf-99" else "lacks source, type"):
        read_event(envelope)
