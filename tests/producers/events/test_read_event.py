"""Records as events: JSON, plain text, both CloudEvents modes, Confluent framing, and what is refused."""

from __future__ import annotations

import base64
import encodings
import json
import re
from collections.abc import Callable

import pytest
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from guideway.producers.events.envelope import read_envelope
from guideway.producers.events.read_event import read_event
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.schemas.request import LAST_DEADLINE_MS

MakeRecord = Callable[..., Record]
NOW = 1_700_000_000_000
FIELDS = {"text": "hello"}


def event_of(record: Record) -> Event:
    return read_event(read_envelope(record))


@pytest.mark.parametrize(
    ("value", "content_type", "content"),
    [
        (b'{"text": "hello"}', "application/json", FIELDS),
        (b'{"text": "hello"}', "", FIELDS),
        (b'  {"text": "hello"}', "application/json; charset=utf-8", FIELDS),
        (b'"hello"', "application/vnd.team+json", "hello"),
        (b"hello", "text/plain", "hello"),
        ("schön".encode(), "", "schön"),
        (rb'{"a:\":": "x:\\", "b": [{"c": ":"}, {"c": "\""}]}', "", {'a:":': "x:\\", "b": [{"c": ":"}, {"c": '"'}]}),
        (b'{"text": "hello"}', "text/plain; charset=utf-8", '{"text": "hello"}'),
        (b'\x00\x00\x00\x00\x2a{"text": "hello"}', "", FIELDS),
        (b'\x00\x00\x00\x00\x2a"hello"', "application/json", "hello"),
        (b'\x00\x00\x00\x00\x00\x00\x00\x00\x2a{"text": "hello"}', "", FIELDS),
        (b"\x03\x00" + b"\xa7" * 16 + b'{"text": "hello"}', "", FIELDS),
        (b'\xef\xbb\xbf{"text": "hello"}', "", FIELDS),
        (b'\xef\xbb\xbf{"text": "hello"}', "application/json", FIELDS),
        (b"\xef\xbb\xbfhello", "text/plain", "hello"),
        ('\ufeff{"text": "hello"}'.encode("utf-16-le"), "", FIELDS),
        ("\ufeffhello".encode("utf-16-be"), "text/plain", "hello"),
        ("schön".encode("utf-16"), "text/plain; charset=utf-16", "schön"),
        ("schön".encode("utf-16-le"), 'text/plain; charset="UTF-16LE"', "schön"),
        ("5 €".encode("cp1252"), "text/plain; charset=windows-1252", "5 €"),
        ('{"text": "schön"}'.encode("latin-1"), "application/json; Charset=ISO-8859-1", {"text": "schön"}),
        ("\u3000{name}, \u00a0hello".encode(), "", "\u3000{name}, \u00a0hello"),
        ("\u200bhello {".encode(), "", "\u200bhello {"),
        ('\u00a0{"text": "hello"}'.encode(), "text/plain", '\u00a0{"text": "hello"}'),
    ],
)
def test_content(make_record: MakeRecord, value: bytes, content_type: str, content: object) -> None:
    assert event_of(make_record(value, content__type=content_type)).content == content


def test_cloud_event_by_its_own_library_in_both_modes(make_record: MakeRecord) -> None:
    attributes = {"id": "e-1", "source": "/s", "type": "t", "specversion": "1.0", "datacontenttype": "application/json"}
    event = CloudEvent(attributes=attributes, data=FIELDS)
    for convert in (to_binary_event, to_structured_event):
        message = convert(event, JSONFormat())
        headers = {name.replace("-", "__"): value for name, value in message.headers.items()}
        read = event_of(make_record(message.value, **headers))
        assert (read.id, read.content) == ("e-1", FIELDS)


def test_structured_cloud_event_with_base64(make_record: MakeRecord) -> None:
    envelope = {
        "specversion": "1.0",
        "id": "e-2",
        "source": "/s",
        "type": "t",
        "datacontenttype": "text/plain",
        "data_base64": base64.b64encode(b"hi").decode(),
    }
    event = event_of(make_record(json.dumps(envelope).encode(), content__type="application/cloudevents+json"))
    assert (event.id, event.content) == ("e-2", "hi")


@pytest.mark.parametrize(
    ("value", "headers", "says"),
    [
        (b"x", {"deadline": "4102444800"}, "are these seconds"),
        (b"x", {"deadline": "1700000000000000"}, "are these microseconds or nanoseconds"),
        (b"x", {"deadline": "0"}, "are these seconds"),
        (b"x", {"deadline": "9" * 5000}, "are these microseconds"),
        ("hello".encode("utf-16-le"), {"content__type": "text/plain"}, "is it UTF-16"),
        ('{"a": 1}'.encode("utf-16-be"), {}, "is it UTF-16"),
        ("schön".encode("latin-1"), {}, "charset=windows-1252"),
        (b"hello", {"content__type": "text/plain; charset=utf-99"}, "'utf-99' in the content type is unknown"),
        (b"hello", {"content__type": "text/plain; charset=base64"}, "is unknown"),
        (b"hello", {"content__type": "text/plain; charset=a\0b"}, "is unknown"),
        (b"hello", {"content__type": "text/plain; charset*=a; charset*1*=b"}, "is unknown"),
        (b"hello", {"content__type": "text/plain; charset=punycode"}, "is unknown"),
        (b"hello", {"content__type": "text/plain" + ";" * 1000}, "has 1010 characters, at most 1000 are read"),
        (b"a\\u0062", {"content__type": "text/plain; charset=unicode_escape"}, "is unknown"),
        (b"\xff", {"content__type": "text/plain; charset=ascii"}, "is not ascii as it declares"),
        (b"\x00\x00\x00\x00\x2a\x02\x06abc", {}, "Avro is not read"),
        (
            b"\x00\x00\x00\x00\x2a\x00\x0a\x05hello",
            {"content__type": "application/json"},
            "Protobuf is read by endpoints that declare a message",
        ),
        (b"\x03\x05" + b"\xa7" * 16 + b"zlib", {}, "compressed by it"),
        ('\u00a0{"text": "hello"}'.encode(), {}, "before it has U+00A0 (NO-BREAK SPACE)"),
        ('\n \u200b {\u00a0"text": "hel'.encode(), {}, "before it has U+200B (ZERO WIDTH SPACE)"),
        ("\ufeff\ufeff{}".encode(), {}, "before it has U+FEFF"),
        ('\u2060[{"text": "hello"}]'.encode(), {}, "publish one event a record"),
        ('"\u200b{}"'.encode(), {"content__type": "application/json"}, "encoded twice"),
        ('\u00a0{"text": "a"}'.encode(), {"content__type": "application/json"}, "U+00A0 (NO-BREAK SPACE) is no white"),
        ('{"text":\u2003"a"}'.encode(), {}, "U+2003 (EM SPACE) is no white space of JSON"),
        ('{"text": "a"}\u200b'.encode(), {}, "U+200B (ZERO WIDTH SPACE) is no white space of JSON"),
        ("{\u201ctext\u201d: 1}".encode(), {}, "names and texts stand in straight double quotes"),
    ],
)
def test_a_refusal_names_the_likely_cause(
    make_record: MakeRecord, value: bytes, headers: dict[str, str | bytes], says: str
) -> None:
    with pytest.raises(Refusal, match=re.escape(says)):
        event_of(make_record(value, **headers))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"specversion": "99"}, "specversion '99' is not read"),
        ({"specversion": 1.0}, "lacks specversion"),
        ({"source": None}, "lacks source"),
        ({"type": ""}, "lacks type"),
        ({"id": None, "source": None}, "lacks id, source"),
        ({"data_base64": "aGk="}, "this one has both"),
    ],
)
def test_what_is_no_cloud_event_is_refused_in_both_modes(
    make_record: MakeRecord, change: dict[str, object], says: str
) -> None:
    good = {"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "data": {"text": "hi"}}
    changed = {name: value for name, value in (good | change).items() if value is not None}
    with pytest.raises(Refusal, match=re.escape(says)) as caught:
        event_of(make_record(json.dumps(changed).encode(), content__type="application/cloudevents+json"))
    assert caught.value.code is FailureCode.UNDECODABLE_EVENT
    headers = {f"ce_{name}": value for name, value in changed.items() if isinstance(value, str)}
    if "data_base64" not in change:
        with pytest.raises(Refusal, match=re.escape(says)):
            event_of(make_record(**headers))


@pytest.mark.parametrize("media", ["application/cloudevents-batch+json", "application/cloudevents+avro"])
def test_other_formats_of_cloud_events_are_refused_by_name(make_record: MakeRecord, media: str) -> None:
    with pytest.raises(Refusal, match=re.escape(f"{media!r} is not read")):
        event_of(make_record(b"[]", content__type=media))


def test_deadlines(make_record: MakeRecord) -> None:
    assert event_of(make_record(deadline="1700000000000")).deadline_ms == 1_700_000_000_000
    assert event_of(make_record(deadline="2023-11-14T22:13:20+00:00")).deadline_ms == 1_700_000_000_000
    # What a worker does not take, it answers to nobody.
    for never in ("9999-12-31T23:59:59.999Z", "6000-01-01T00:00:00Z", "9" * 14):
        assert event_of(make_record(deadline=never)).deadline_ms == LAST_DEADLINE_MS


def test_repeated_and_null_headers_do_no_harm(make_record: MakeRecord) -> None:
    record = Record(
        topic="t",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=None,
        value=b"hi",
        headers=[("request_id", b"one"), ("request_id", b"two"), ("request_id", None), ("x", None)],
    )
    assert event_of(record).id == "two"


@pytest.mark.parametrize(
    ("value", "headers", "code"),
    [
        (b"{not json", {}, FailureCode.UNDECODABLE_EVENT),
        (b"not json", {"content__type": "application/json"}, FailureCode.UNDECODABLE_EVENT),
        (b"[1, 2]", {"content__type": "application/json"}, FailureCode.UNDECODABLE_EVENT),
        (b"\xff\xfd", {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"a":' * 100_000, {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"text": "a", "text": "a"}', {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"text": "a", "t\\u0065xt": "a"}', {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"text": {"x": [{"y": 1, "y": 2}]}}', {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"text": 1e999}', {}, FailureCode.UNDECODABLE_EVENT),
        (b'{"text": ' + b"9" * 5000 + b"}", {}, FailureCode.UNDECODABLE_EVENT),
        (b"x", {"guidance": "a/b@" + "9" * 5000}, FailureCode.INVALID_HEADER),
        (None, {}, FailureCode.UNDECODABLE_EVENT),
        (b"x", {"content__type": "application/x-protobuf"}, FailureCode.UNDECODABLE_EVENT),
        (b'{"id": 1}', {"content__type": "application/cloudevents+json"}, FailureCode.UNDECODABLE_EVENT),
        (b"x", {"content__type": b"\xff"}, FailureCode.INVALID_HEADER),
        (b"x", {"reply_to": b"\xff"}, FailureCode.INVALID_HEADER),
        (b"x", {"reply_to": "t", "kafka_replyPartition": b"\x01"}, FailureCode.INVALID_HEADER),
        (b"x", {"deadline": "tomorrow"}, FailureCode.INVALID_HEADER),
        (b"x", {"deadline": "2023-11-14T22:13:20"}, FailureCode.INVALID_HEADER),
        (b"x", {"request_id": "y" * 201}, FailureCode.INVALID_HEADER),
        (b"x", {"guidance": "no slash"}, FailureCode.INVALID_HEADER),
        *(
            (b"x", {"generation": written}, FailureCode.INVALID_HEADER)
            for written in (
                "0.7",
                "{",
                "[]",
                '{"temperature": NaN}',
                '{"temperature": "hot"}',
                '{"temperature": 11}',
                '{"n": 2}',
                '{"samples": 0}',
                '{"samples": 17}',
                '{"seed": -1}',
                '{"seed": null}',
                '{"stop": ["a", ""]}',
                '{"max_tokens": 1e9}',
                '{"a":' * 100_000,
                b"\xff",
            )
        ),
    ],
)
def test_refused(make_record: MakeRecord, value: bytes, headers: dict[str, str | bytes], code: FailureCode) -> None:
    with pytest.raises(Refusal) as caught:
        event_of(make_record(value, **headers))
    assert caught.value.code is code


def test_charsets_that_nobody_knows_are_not_remembered(make_record: MakeRecord) -> None:
    known = len(vars(encodings)["_cache"])
    for number in range(20):
        with pytest.raises(Refusal, match="is unknown: send UTF-8"):
            event_of(make_record(b"hello", content__type=f"text/plain; charset=x-{number}"))
    assert len(vars(encodings)["_cache"]) == known
    for name in ("utf8", "Windows-1252", "ISO_8859-1:1987", "latin 1", "shift_jis", "utf-16le", "koi8-u"):
        text = "abc".encode(name)
        assert event_of(make_record(text, content__type=f'text/plain; charset="{name}"')).content == "abc"
