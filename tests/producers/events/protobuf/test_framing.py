"""Frames of schema registries, events without a content type, and CloudEvents with Protobuf in them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.protos import SHOP, compiled, input_rule, theirs

from guideway.catalogue.protobuf.message_type import message_type
from guideway.producers.events.contents import content
from guideway.producers.events.envelope import read_envelope
from guideway.producers.events.protobuf.cloud_event import read_protobuf_event
from guideway.producers.events.read_event import read_event
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field, InputRule
from guideway.schemas.record import Record

RULE = input_rule()
TICKET = theirs("shop.v1.Ticket")(text="It broke.", number=7)
VALUE = TICKET.SerializeToString()
ID = b"\0\0\0\x01\x02"
FIRST = 'syntax = "proto3"; package a; message A { string text = 1; message In { string text = 1; } }'


def refused(value: bytes, content_type: str = "", rule: InputRule = RULE) -> str:
    with pytest.raises(Refusal) as caught:
        content(value, content_type, rule)
    assert caught.value.code is FailureCode.UNDECODABLE_EVENT
    return caught.value.message


@pytest.mark.parametrize("content_type", ["", "application/protobuf", "application/vnd.google.protobuf"])
def test_a_frame_is_taken_off(content_type: str) -> None:
    # Ticket is the third message of its file: one index, which is 2, both in zig-zag form.
    found = content(ID + b"\x02\x04" + VALUE, content_type, RULE)
    assert isinstance(found, dict)
    assert (found["text"], found["number"]) == ("It broke.", 7)


@pytest.mark.parametrize(
    ("message", "written", "fields"),
    [
        ("Ticket", "000000000102040a0949742062726f6b652e800107", {"text": "It broke.", "number": 7}),
        ("Other", "0000000002000a0178", {"anything": "x"}),
        ("Ticket.Line", "00000000030404000a03637570", {"item": "cup"}),
    ],
)
def test_what_confluents_own_serializer_writes_is_read(message: str, written: str, fields: dict[str, Any]) -> None:
    """Bytes that `ProtobufSerializer` of confluent-kafka 2.16.1 made of messages of this file."""
    kinds: dict[type, Any] = {str: "string", int: "integer"}
    declared = {name: Field(type=kinds[type(value)]) for name, value in fields.items()}
    assert content(bytes.fromhex(written), "", input_rule(f"shop.v1.{message}", fields=declared)) == fields


def test_the_first_message_has_one_zero_byte_for_its_index() -> None:
    first = input_rule("a.A", FIRST)
    value = theirs("a.A", FIRST)(text="x").SerializeToString()
    for indexes in (b"\0", b"\x02\0"):
        assert content(ID + indexes + value, "", first) == {"text": "x"}
    inner = input_rule("a.A.In", FIRST)
    assert content(ID + b"\x04\0\0" + value, "", inner) == {"text": "x"}


@pytest.mark.parametrize(
    ("message", "indexes"),
    [("Other", (0,)), ("Customer", (1,)), ("Ticket", (2,)), ("Ticket.Line", (2, 0)), ("TicketMood", (3,))],
)
def test_indexes_are_the_places_in_the_file(message: str, indexes: tuple[int, ...]) -> None:
    rule = input_rule(f"shop.v1.{message}", fields={})
    assert message_type(rule.descriptors, rule.message).indexes == indexes


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (ID + b"\0" + VALUE, "the frame names message number 0 of its file, and shop.v1.Ticket is number 2"),
        (ID + b"\x04\x04\0" + VALUE, "the frame names message number 2, 0 of its file"),
        # Plain varints, as old serialisers wrote.
        (ID + b"\x01\x02" + VALUE, "switch `use.deprecated.format` off"),
        (ID, "ends within it"),
        (ID + b"\x02", "is cut"),
        (ID + b"\x02" + b"\xff" * 9, "is cut"),
        (b"\x03\0" + b"\0" * 16 + VALUE, "Glue"),
    ],
)
def test_another_frame_is_refused(value: bytes, said: str) -> None:
    assert said in refused(value, "application/protobuf")


def test_json_in_a_frame_is_still_json() -> None:
    assert content(ID + b'{"text": "a"}', "", RULE) == {"text": "a"}
    assert content(b"\0" + b"\0" * 8 + b'{"text": "a"}', "application/json", RULE) == {"text": "a"}


def test_an_event_that_may_be_two_things_must_say_which() -> None:
    # `\n` and a length that is a printable character: as text it would have two odd characters in front.
    value = theirs("shop.v1.Ticket")(text="x" * 40).SerializeToString()
    assert "has no content type, and may be a message shop.v1.Ticket" in refused(value)
    assert content(value, "text/plain", RULE) == value.decode()
    assert "declare application/protobuf" in refused(VALUE)
    assert content(b"\tIs the Earth round?", "", RULE) == "\tIs the Earth round?"
    assert content(b"Is the Earth round?", "", RULE) == "Is the Earth round?"
    assert content(b'{"text": "a"}', "", RULE) == {"text": "a"}


# CloudEvents ----------------------------------------------------------------------------------------------------------

CLOUD = """
syntax = "proto3";
package io.cloudevents.v1;
import "google/protobuf/any.proto";
import "google/protobuf/timestamp.proto";
message CloudEvent {
  string id = 1;
  string source = 2;
  string spec_version = 3;
  string type = 4;
  map<string, CloudEventAttributeValue> attributes = 5;
  oneof data { bytes binary_data = 6; string text_data = 7; google.protobuf.Any proto_data = 8; }
}
message CloudEventAttributeValue {
  oneof attr {
    bool ce_boolean = 1; int32 ce_integer = 2; string ce_string = 3; bytes ce_bytes = 4; string ce_uri = 5;
    string ce_uri_ref = 6; google.protobuf.Timestamp ce_timestamp = 7;
  }
}
"""
NAMED: dict[str, Any] = {"id": "order-17", "source": "/shop", "spec_version": "1.0", "type": "ticket"}


def event_of(value: bytes, *headers: tuple[str, bytes]) -> Event:
    record = Record(
        topic="gw.shop.mood.in.v1", partition=0, offset=0, timestamp_ms=0, key=None, value=value, headers=headers
    )
    return read_event(read_envelope(record), RULE)


def structured(**more: Any) -> Event:
    value = theirs("io.cloudevents.v1.CloudEvent", CLOUD)(**NAMED | more).SerializeToString()
    return event_of(value, ("content-type", b"application/cloudevents+protobuf; charset=UTF-8"))


def test_a_structured_cloud_event_in_protobuf() -> None:
    url = "type.googleapis.com/shop.v1.Ticket"
    kinds: list[dict[str, Any]] = [
        {"proto_data": {"type_url": url, "value": VALUE}},
        {"binary_data": VALUE, "attributes": {"datacontenttype": {"ce_string": "application/protobuf"}}},
        {"binary_data": b'{"text": "It broke.", "number": 7}'},
        {
            "text_data": '{"text": "It broke.", "number": 7}',
            "attributes": {
                "datacontenttype": {"ce_string": "application/json"},
                "time": {"ce_timestamp": {"seconds": 1}},
                "more": {"ce_integer": 5},
                "flag": {"ce_boolean": True},
                "raw": {"ce_bytes": b"\0"},
            },
        },
    ]
    for one in kinds:
        event = structured(**one)
        assert event.id == "order-17"
        assert isinstance(event.content, dict)
        assert (event.content["text"], event.content["number"]) == ("It broke.", 7)
    assert structured(text_data="It broke.").content == "It broke."


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"proto_data": {"type_url": "x/shop.v1.Other", "value": VALUE}}, "names message 'shop.v1.Other'"),
        ({"text_data": "a", "source": ""}, "this one lacks source"),
        ({"text_data": "a", "spec_version": "2.0"}, "specversion '2.0' is not read"),
        ({"text_data": "a", "attributes": {"Upper": {"ce_integer": 1}}}, "'Upper' is none"),
        ({"text_data": "a", "attributes": {"empty": {}}}, "is no message io.cloudevents.v1.CloudEvent"),
        ({}, "a CloudEvent's `data` is"),
    ],
)
def test_what_is_no_cloud_event_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal) as caught:
        structured(**more)
    assert said in caught.value.message


def test_broken_cloud_events_are_refused() -> None:
    for value in (b"\xff", None, b"\x2a\x00" * 200_000):
        with pytest.raises(Refusal) as caught:
            read_event(
                read_envelope(
                    Record(
                        topic="gw.shop.mood.in.v1",
                        partition=0,
                        offset=0,
                        timestamp_ms=0,
                        key=None,
                        value=value,
                        headers=[("content-type", b"application/cloudevents+protobuf")],
                    )
                ),
                RULE,
            )
        assert caught.value.code is FailureCode.UNDECODABLE_EVENT
    assert read_protobuf_event(b"\x0a\x01a") == {"id": "a"}


def test_a_cloud_event_in_binary_mode() -> None:
    marks = [(f"ce_{name}", b"1.0") for name in ("specversion", "id", "source", "type")]
    event = event_of(VALUE, *marks, ("content-type", b"application/x-protobuf"))
    assert event.id == "1.0"
    assert isinstance(event.content, dict)
    assert event.content["text"] == "It broke."
    assert compiled(SHOP).file
