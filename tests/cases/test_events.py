"""Records as other programs write them: read as what they are, or refused with the cause."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any, Final

import pytest

from guideway.catalogue.entries import Catalogue
from guideway.producers.events.envelope import read_envelope
from guideway.producers.events.read_event import read_event
from guideway.producers.marshalling.marshal import marshal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.request import ReplyAddress

HERE: Final = Path(__file__).parent
REPLIES: Final = "gw.t.wire.out.v1"
FIELDS: Final = b'{"text": "a"}'
STRUCTURED: Final = ("content-type", "application/cloudevents+json")
BINARY: Final = (("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "/s"), ("ce_type", "t"))


def record(value: bytes | str | None, *headers: tuple[str, bytes | str | None]) -> Record:
    return Record(
        topic="gw.t.wire.in.v1",
        partition=0,
        offset=7,
        timestamp_ms=1_700_000_000_000,
        key=b"k",
        value=value.encode() if isinstance(value, str) else value,
        headers=[(name, one.encode() if isinstance(one, str) else one) for name, one in headers],
    )


def content(value: bytes | str | None, *headers: tuple[str, bytes | str | None]) -> dict[str, Any] | str:
    return read_event(read_envelope(record(value, *headers))).content


def refused(value: bytes | str | None, *headers: tuple[str, bytes | str | None]) -> str:
    with pytest.raises(Refusal) as caught:
        read_event(read_envelope(record(value, *headers)))
    assert caught.value.code in {FailureCode.UNDECODABLE_EVENT, FailureCode.INVALID_HEADER}
    assert not caught.value.code.retryable
    return caught.value.message


def cloud_event(**changed: Any) -> str:
    plain = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"text": "a"}}
    return json.dumps({name: one for name, one in (plain | changed).items() if one is not ...})


# The records that were brought ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "number"), [("0", 0), ("1234", 1234)])
def test_a_partition_in_digits_is_that_number(digits: str, number: int) -> None:
    event = read_event(read_envelope(record(FIELDS, ("kafka_replyTopic", REPLIES), ("kafka_replyPartition", digits))))
    assert event.reply_to == ReplyAddress(topic=REPLIES, partition=number)


def test_the_headers_of_smallrye_are_read() -> None:
    event = read_event(read_envelope(record(FIELDS, ("REPLY_TOPIC", REPLIES), ("REPLY_PARTITION", b"\0\0\0\2"))))
    assert event.reply_to == ReplyAddress(topic=REPLIES, partition=2)


@pytest.mark.parametrize("headers", [(), (("content-type", "application/json"),)])
def test_a_byte_order_mark_is_no_part_of_a_value(headers: tuple[tuple[str, str], ...]) -> None:
    assert content(b"\xef\xbb\xbf" + FIELDS, *headers) == {"text": "a"}


def test_a_deadline_of_ten_digits_is_in_seconds() -> None:
    assert "it has 10: are these seconds?" in refused(FIELDS, ("deadline", "4102444800"))


# Their neighbours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "headers", "read"),
    [
        (FIELDS, (("content-type", "text/json"),), {"text": "a"}),
        (FIELDS, (("content-type", '"application/json"'),), {"text": "a"}),
        (FIELDS, (("content-type", "Application/JSON; Charset=UTF-8"),), {"text": "a"}),
        (FIELDS, (("content-encoding", "identity"),), {"text": "a"}),
        ('"hello"', (("contentType", "application/json"),), "hello"),
        ('{"a": 1}', (("Content-Type", "text/plain"),), '{"a": 1}'),
        ("café".encode("cp1252"), (("content_type", "text/plain; charset=windows-1252"),), "café"),
        (FIELDS, (("Content-Type", "text/plain"), ("content-type", "application/json")), {"text": "a"}),
        ('{"n": 9007199254740993}', (), {"n": 9007199254740993}),
        ('"hello"', (("content-type", "application/json"),), "hello"),
        ("[INST] hello [/INST]", (), "[INST] hello [/INST]"),
        ('"quoted", he said', (), '"quoted", he said'),
        ("[1, 2, 3]", (), "[1, 2, 3]"),
        ("\x1b[31mred", (), "\x1b[31mred"),
        ("8=FIX.4.2\x019=1", (("content-type", "text/plain"),), "8=FIX.4.2\x019=1"),
        ('{"text": "a"}', (("content-type", "text/plain"),), '{"text": "a"}'),
        ("日本".encode("shift_jis"), (("content-type", "text/plain; charset=Shift_JIS"),), "日本"),
        (cloud_event(data_base64=None), (STRUCTURED,), {"text": "a"}),
        (cloud_event(time="2024-01-01T00:00:00.123Z", partitionkey="x", sampled=True), (STRUCTURED,), {"text": "a"}),
        (
            cloud_event().encode("utf-16"),
            (("content-type", "application/cloudevents+json; charset=utf-16"),),
            {"text": "a"},
        ),
        (cloud_event(data='{"a": 1}', datacontenttype="text/plain"), (STRUCTURED,), '{"a": 1}'),
        (b"\x00\x00\x00\x00\x7b" + FIELDS, (), {"text": "a"}),
        (b"\x03\x00" + b"u" * 16 + FIELDS, (), {"text": "a"}),
    ],
)
def test_neighbours_are_read(
    value: bytes | str, headers: tuple[tuple[str, bytes | str | None], ...], read: dict[str, Any] | str
) -> None:
    assert content(value, *headers) == read


@pytest.mark.parametrize(
    ("value", "headers", "words"),
    [
        ('[{"text": "a"}]', (), "array of objects: publish one event a record"),
        ('[{"text": "a"}]', (("content-type", "application/json"),), "publish one event a record"),
        ('{"text": "a"}\n{"text": "b"}', (), "several values, publish one event a record"),
        (json.dumps('{"text": "a"}'), (), "encoded twice"),
        (json.dumps('{"text": "a"}'), (("content-type", "application/json"),), "encoded twice"),
        ('{"text": "a"} // why', (), "JSON has no comments"),
        ("{'text': 'a'}", (), "double quotes"),
        ("{{name}} hello", (), "or send text with the content type text/plain"),
        ('{"text": NaN}', (), "NaN and Infinity are no JSON, write null"),
        ('{"text": -Infinity}', (), "NaN and Infinity are no JSON, write null"),
        ('{"text": "\\ud800"}', (), "half of a surrogate pair"),
        ('{"text": "a", "\\u0074ext": "b"}', (), "names a member twice"),
        ("", (("content-type", "application/json"),), "the value is empty"),
        (FIELDS.decode().encode("utf-16-le"), (), "is it UTF-16?"),
        (gzip.compress(FIELDS, mtime=0), (), "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd" + FIELDS, (), "compressed with zstd"),
        (FIELDS, (("content-encoding", "deflate"),), "header content-encoding says that the value is in deflate"),
        (b"\n\x05Hello", (), "control character '\\x05', as binary forms do"),
        (b"Obj\x01\x04\x14avro.codec", (), "as binary forms do"),
        (b"\x03\x00" + b"u" * 16 + b"\x02a", (), "frame of the Glue schema registry, and no JSON after it"),
        (b"\x00\x00\x00\x00\x07\x00\x0a\x01a", (), "Avro is not read"),
        (cloud_event(), (("ce-specversion", "1.0"),), "header ce-specversion is of a CloudEvent for another protocol"),
        (FIELDS, (("cloudEvents:specversion", "1.0"),), "in Kafka it is ce_specversion"),
        (FIELDS, (*BINARY[:2], ("ce_source", b"\xff"), BINARY[3]), "header ce_source is not UTF-8 text"),
        (FIELDS, (*BINARY, ("ce_time", "yesterday")), "is none of RFC 3339"),
        (cloud_event(time="2024-01-01"), (STRUCTURED,), "is none of RFC 3339"),
        (cloud_event(SpecVersion="1.0"), (STRUCTURED,), "'SpecVersion' is none"),
        (cloud_event(more={"a": 1}), (STRUCTURED,), "attribute more is no text, integer or boolean"),
        (cloud_event(subject=""), (STRUCTURED,), "attribute subject is no text"),
        (cloud_event(data="<a/>", datacontenttype="application/xml"), (STRUCTURED,), "'application/xml' is not"),
        (cloud_event(data='{"text": "a"}'), (STRUCTURED,), "encoded twice"),
        (cloud_event(data=..., data_base64=base64.b64encode(b"\n\x05Hello").decode()), (STRUCTURED,), "binary forms"),
        (FIELDS, (("reply_to", REPLIES), ("kafka_replyPartition", b"\1\0\0\0")), "are these 1, little-endian?"),
        (FIELDS, (("reply_to", REPLIES), ("kafka_replyPartition", "null")), "these are b'null'"),
        (FIELDS, (("reply-to", REPLIES),), "header reply-to is not read"),
        (FIELDS, (("replyTopic", REPLIES),), "write reply_to"),
        (FIELDS, (("reply_to", REPLIES), ("reply_partition", "2")), "write kafka_replyPartition"),
        (FIELDS, (("Deadline", "1700000000000"),), "header Deadline is not read, as names are exact: write deadline"),
        (FIELDS, (("GENERATION", "{}"),), "write generation"),
        (FIELDS, (("generation", '{"seed": 1, "seed": 2}'),), "write each parameter once"),
        (FIELDS, (("deadline", "0001-01-01T00:00:00Z"),), "a date that was never set?"),
        (FIELDS, (("deadline", "1970-01-01T00:00:00+00:00"),), "a date that was never set?"),
        (FIELDS, (("deadline", "1700000000000000000"),), "microseconds or nanoseconds?"),
    ],
)
def test_neighbours_are_refused_with_their_cause(
    value: bytes | str, headers: tuple[tuple[str, bytes | str | None], ...], words: str
) -> None:
    assert words in refused(value, *headers)


def test_a_cloud_event_that_does_not_say_so_is_told_how() -> None:
    endpoint = Endpoint(namespace="t", name="wire", model_size="small", output=Text())
    event = read_event(read_envelope(record(cloud_event(), ("content-type", "application/json"))))
    with pytest.raises(Refusal, match="declare the content type application/cloudevents") as caught:
        marshal(event, endpoint, 1, Catalogue(), reply_to=[], written_ms=0, now_ms=0)
    assert caught.value.code is FailureCode.UNKNOWN_FIELD


def test_a_header_of_an_email_is_nobodys_reply_topic() -> None:
    assert content(FIELDS, ("Reply-To", "somebody@example.org")) == {"text": "a"}
