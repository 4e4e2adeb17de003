"""What a request's headers ask for. Pure."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from guideway.producers.gateway.http import asked
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.request import LAST_DEADLINE_MS

OFFERED = (asked.JSON, asked.EVENTS, *asked.PROTOBUF)
NOW_MS = 1_800_000_000_000


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.lower().encode(), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["respond-async"], asked.Prefer(True, None)),
        (["respond-async, wait=10"], asked.Prefer(True, 10)),
        (["wait=10", "Respond-Async"], asked.Prefer(True, 10)),
        (["wait=10, wait=20"], asked.Prefer(False, 10)),
        (['wait="5"'], asked.Prefer(False, 5)),
        (["respond-async; foo=bar, handling=lenient"], asked.Prefer(True, None)),
        (["wait=-1", "wait=x", "respond-async=no", "wait=1e3"], asked.Prefer(False, None)),
        ([], asked.Prefer(False, None)),
    ],
)
def test_preferences_are_read_and_others_passed_over(given: list[str], expected: asked.Prefer) -> None:
    assert asked.prefer(headers(*[("Prefer", one) for one in given])) == expected


def test_generation_goes_with_the_event_once() -> None:
    written = '{"max_tokens": 20, "stop": ["é"]}'
    assert asked.generation(headers(("Generation", written))) == (("generation", written.encode("latin-1")),)
    assert asked.generation(headers()) == ()
    with pytest.raises(DoorRefusal, match="several headers Generation"):
        asked.generation(headers(("Generation", "{}"), ("generation", "{}")))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", asked.JSON),
        ("*/*", asked.JSON),
        ("application/*", asked.JSON),
        ("text/event-stream", asked.EVENTS),
        ("application/json;q=0.5, text/event-stream", asked.EVENTS),
        ("text/html, */*;q=0.1", asked.JSON),
        ("application/json;q=0, */*", asked.EVENTS),
        ("application/x-protobuf", "application/x-protobuf"),
        ("application/protobuf; messageType=a.B", "application/protobuf"),
        ("APPLICATION/JSON", asked.JSON),
    ],
)
def test_the_form_that_is_preferred(accept: str, expected: str) -> None:
    assert asked.wanted(headers(("Accept", accept)) if accept else headers(), OFFERED) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/json;q=x", ",", "image/*;q=1"])
def test_a_form_that_there_is_not(accept: str) -> None:
    with pytest.raises(DoorRefusal) as raised:
        asked.wanted(headers(("Accept", accept)), OFFERED)
    assert raised.value.code is DoorCode.NOT_ACCEPTABLE


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"Request-Timeout": "2.5"}, NOW_MS + 2500),
        ({"Deadline": "1800000001000"}, NOW_MS + 1000),
        ({"Deadline": "2027-01-15T08:00:01Z"}, NOW_MS + 1000),
        ({"Deadline": "2027-01-15T09:00:01+01:00"}, NOW_MS + 1000),
        ({"Deadline": "1800000001000", "Request-Timeout": "9"}, NOW_MS + 1000),
        ({"Deadline": "9999-12-31T23:59:59Z"}, LAST_DEADLINE_MS),
    ],
)
def test_until_when(given: dict[str, str], expected: int | None) -> None:
    assert asked.deadline_ms(headers(*given.items()), NOW_MS) == expected


@pytest.mark.parametrize(
    "given",
    [{"Request-Timeout": one} for one in ("", "-1", "1e9", "٣", "9" * 10, "1,5")]
    + [{"Deadline": one} for one in ("", "now", "1800000001", "2027-01-15T08:00:01", "0")]
    + [{"Deadline": one} for one in ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "0" * 13)],
)
def test_times_that_are_none(given: dict[str, str]) -> None:
    with pytest.raises(DoorRefusal):
        asked.deadline_ms(
            headers(*[(name, value.encode("utf-8").decode("latin-1")) for name, value in given.items()]), 0
        )


def test_a_key_is_the_same_with_and_without_quotes() -> None:
    for one in ("k-1", '"k-1"', ' "k-1" '):
        assert asked.idempotency_key(headers(("Idempotency-Key", one))) == "k-1"
    assert asked.idempotency_key(headers(("Idempotency-Key", r'"a\"b\\c"'))) == r'a"b\c'
    assert asked.idempotency_key(headers()) is None
    for wrong in ([""], ['""'], ["x" * 201], ["é"], ["a", "b"], ["a\tb"]):
        with pytest.raises(DoorRefusal):
            asked.idempotency_key(headers(*[("Idempotency-Key", one) for one in wrong]))


def test_a_trace_context_goes_on_and_what_is_none_does_not() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert asked.trace(headers(("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2"))) == (
        ("traceparent", parent.encode()),
        ("tracestate", b"a=1,b=2"),
    )
    assert asked.trace(headers(("traceparent", "x"), ("tracestate", "a=1"))) == ()
    assert asked.trace(headers(("traceparent", parent), ("tracestate", "x" * 600))) == (
        ("traceparent", parent.encode()),
    )
