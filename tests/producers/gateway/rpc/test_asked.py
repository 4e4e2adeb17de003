"""What a gRPC call asks, as a call of any door; and failures as statuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from google.rpc import error_details_pb2

from guideway.producers.gateway.call import id_of, require_small_headers
from guideway.producers.gateway.rpc.asked import call_of, deadline_ms, read_metadata
from guideway.producers.gateway.rpc.statuses import rich_status
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.protobuf.messages import message

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOTHING = read_metadata([])


def event(**fields: Any) -> Any:
    return message("guideway.v1.Event")(endpoint="/shop/mood", **fields)


def struct(**fields: Any) -> Any:
    made = message("google.protobuf.Struct")()
    made.update(fields)
    return made


def content(given: Any) -> tuple[bytes, str]:
    call = call_of(given, NOTHING, namespace="shop", deadline=None)
    return call.content, call.content_type


def test_content_keeps_its_form() -> None:
    assert content(event(text=" {x")) == (b" {x", "text/plain")
    assert content(event(json='{"a": 9007199254740993}')) == (b'{"a": 9007199254740993}', "application/json")
    value, content_type = content(event(fields=struct(a=1, b=1.5, c=None, d=[True, {"e": "é"}], f=-3)))
    assert content_type == "application/json"
    decoded = msgspec.json.decode(value)
    assert decoded == {"a": 1, "b": 1.5, "c": None, "d": [True, {"e": "é"}], "f": -3}
    assert isinstance(decoded["a"], int)


def test_a_message_names_its_type() -> None:
    packed = message("google.protobuf.Any")(type_url="type.googleapis.com/shop.v1.Ticket", value=b"\n\1a")
    assert content(event(message=packed)) == (b"\n\1a", "application/protobuf; messageType=shop.v1.Ticket")


def deep(levels: int) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (event, "the event has no content"),
        (lambda: event(fields=struct(a=[{"b": float("nan")}])), "field 'a[0].b' is nan"),
        (lambda: event(fields=struct(a=float("inf"))), "field 'a' is inf"),
        (lambda: event(fields=struct(a=2.0**53)), "field 'a' is 9007199254740992, and an integer as large"),
        (lambda: event(fields=struct(a=1e308)), "field 'a' is 1e+308, and an integer as large"),
        (
            lambda: event(message=message("google.protobuf.Any")(type_url="x/" + "a" * 501)),
            "the type of `message` has 501",
        ),
        (lambda: event(message=message("google.protobuf.Any")(value=b"1")), "`message` has no type"),
        (lambda: event(message=message("google.protobuf.Any")(type_url="x/a;b")), "`message` has no type"),
    ],
)
def test_content_that_would_be_cut_or_guessed_is_refused(given: Any, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        content(given())
    assert said in refused.value.message


def test_a_value_without_a_kind_is_refused() -> None:
    made = event(fields=message("google.protobuf.Struct")())
    made.fields.fields["a"].SetInParent()
    with pytest.raises(Refusal, match="'a' is a Value without a kind"):
        content(made)


def test_the_deepest_struct_that_can_be_sent_is_read() -> None:
    sent = event(fields=struct(a=deep(40))).SerializeToString()
    assert msgspec.json.decode(content(message("guideway.v1.Event").FromString(sent))[0]) == {"a": deep(40)}


def test_fields_of_more_values_than_an_event_may_have_are_refused() -> None:
    """Each of two bytes would be one, and a call would take a second in which no other gets on."""
    made = message("google.protobuf.Struct")()
    made.fields["many"].list_value.values.extend([message("google.protobuf.Value")(bool_value=True)] * 99_999)
    assert content(event(fields=made))[0].endswith(b"true,true]}")
    made.fields["more"].bool_value = True
    with pytest.raises(Refusal, match="have more than 100000 values: send less in one event") as refused:
        content(event(fields=made))
    assert refused.value.code is FailureCode.UNDECODABLE_EVENT


def test_an_event_is_a_call() -> None:
    given = event(text="x", id="7", guidance=["a/b", "c/d@1"], generation={"temperature": 0.5, "stop": ["a", "b"]})
    metadata = read_metadata([("traceparent", TRACE), ("authorization", "Bearer x"), ("user-agent", "z")])
    call = call_of(given, metadata, namespace="me", deadline=5, partial=True)
    assert (call.namespace, call.address, call.request_id, call.keep) == ("me", "/shop/mood", "7", True)
    assert (call.idempotency_key, call.deadline_ms, call.guidance) == (None, 5, ("a/b", "c/d@1"))
    keyed = read_metadata([("idempotency-key", '"k"')])
    assert call_of(event(text="x"), keyed, namespace="me", deadline=None).idempotency_key == "k"
    assert call.headers == (("traceparent", TRACE.encode()), ("generation", b'{"temperature":0.5,"stop":["a","b"]}'))
    assert call.partial
    assert metadata.authorization == ("Bearer x",)


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 0), ("temperature", float("nan")), ("stop", ["a"] * 9)])
def test_a_parameter_out_of_bounds_is_named_as_the_field_that_it_is(name: str, value: Any) -> None:
    given = event(text="x", generation={name: value})
    with pytest.raises(Refusal, match=rf"field 'generation.{name}' is out of bounds \(Expected [^$]*\)$") as refused:
        call_of(given, read_metadata([]), namespace="me", deadline=None)
    assert refused.value.code is FailureCode.WRONG_FIELD


@pytest.mark.parametrize(("endpoint", "address"), [("", None), ("shop/mood", "/shop/mood"), ("/a/b", "/a/b")])
def test_no_endpoint_is_the_routers_choice(endpoint: str, address: str | None) -> None:
    given = message("guideway.v1.Event")(endpoint=endpoint, text="x")
    assert call_of(given, NOTHING, namespace="me", deadline=None).address == address


@pytest.mark.parametrize("endpoint", ["mood", "/a/b/c", "//a/b", "/A/b", "/a/", "x" * 1000])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(Refusal, match="is no endpoint: write /NAMESPACE/NAME"):
        call_of(message("guideway.v1.Event")(endpoint=endpoint, text="x"), NOTHING, namespace="me", deadline=None)


def test_what_a_client_calls_its_request_may_be_said_of_several() -> None:
    named = read_metadata([("x-request-id", "r" * 200)])
    ids = {call_of(event(text="x"), named, namespace="me", deadline=None).request_id or "" for _ in range(2)}
    assert len(ids) == 2
    assert all(one.startswith("r" * 183) and len(one) == 200 for one in ids)
    given = event(text="x", id="7")
    assert call_of(given, read_metadata([("x-request-id", "7")]), namespace="me", deadline=None).request_id == "7"
    too_long = call_of(event(text="x"), read_metadata([("x-request-id", "r" * 201)]), namespace="me", deadline=None)
    with pytest.raises(Refusal, match="1 to 200 printable"):
        id_of(too_long)


def test_two_ids_are_refused() -> None:
    with pytest.raises(Refusal, match="send one"):
        call_of(event(text="x", id="7"), read_metadata([("x-request-id", "8")]), namespace="me", deadline=None)
    with pytest.raises(Refusal, match="there twice"):
        read_metadata([("x-request-id", "7"), ("x-request-id", "8")])


@pytest.mark.parametrize(
    ("remaining_s", "expected"), [(None, None), (0.0015, 1_001), (-1.0, 0), (3e20, 1_000_000_001_000)]
)
def test_the_deadline_is_that_of_the_call(remaining_s: float | None, expected: int | None) -> None:
    assert deadline_ms(remaining_s, 1_000) == expected


def details_of(status: Any) -> dict[str, Any]:
    found = {}
    for packed in status.details:
        made = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(made)
        found[type(made).__name__] = made
    return found


def test_a_status_tells_programs_what_happened() -> None:
    status = rich_status(
        FailureCode.WRONG_FIELD, "field 'age' must be of type integer", endpoint="/a/b", request_id="7"
    )
    found = details_of(status)
    assert (status.code, status.message) == (3, "field 'age' must be of type integer")
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == ("WRONG_FIELD", "guideway")
    assert dict(found["ErrorInfo"].metadata) == {"endpoint": "/a/b", "request_id": "7", "retryable": "false"}
    [violation] = found["BadRequest"].field_violations
    assert violation.field == "age"
    assert "RetryInfo" not in found

    found = details_of(rich_status(FailureCode.WRONG_FIELD, "row 3 of 8: input 'age' has datatype 'FP32'"))
    assert found["BadRequest"].field_violations[0].field == "age"

    found = details_of(rich_status(FailureCode.QUOTA_EXCEEDED, "wait", namespace="shop"))
    assert found["RetryInfo"].retry_delay.seconds > 0
    assert found["QuotaFailure"].violations[0].subject == "namespace:shop"

    found = details_of(rich_status(FailureCode.UNKNOWN_ENDPOINT, "no", endpoint="/a/b"))
    assert found["ResourceInfo"].resource_name == "/a/b"


@pytest.mark.parametrize("code", [*FailureCode, *DoorCode])
def test_each_code_has_a_status_that_fits_into_trailers(code: FailureCode | DoorCode) -> None:
    status = rich_status(code, "é" * 100_000, endpoint="/" + "a" * 63 + "/" + "b" * 63, request_id="é" * 200)
    assert 0 < status.code <= 16
    # In base64, beside the message with three characters for each byte.
    assert len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message.encode()) < 8000


def test_a_key_that_is_none_is_told_as_metadata() -> None:
    with pytest.raises(DoorRefusal, match="the metadata idempotency-key is one text"):
        read_metadata([("idempotency-key", "é")])


def test_an_event_is_named_by_one_of_two() -> None:
    with pytest.raises(Refusal, match="send one"):
        call_of(event(text="a", id="1"), read_metadata([("idempotency-key", "k")]), namespace="shop", deadline=None)


def test_guidance_that_is_none_is_told_as_the_field_that_it_is() -> None:
    with pytest.raises(Refusal, match="field 'guidance' has 'tone', which is no name: write NAMESPACE/NAME") as caught:
        call_of(event(text="x", guidance=["shop/tone@2", "tone"]), NOTHING, namespace="shop", deadline=None)
    assert caught.value.code is FailureCode.WRONG_FIELD


def test_what_becomes_a_header_of_the_event_is_bounded() -> None:
    """A message has room for a megabyte of it."""
    few, many = event(text="x", guidance=["a/b"]), event(text="x", guidance=["shop/tone"] * 10_000)
    require_small_headers(call_of(few, NOTHING, namespace="shop", deadline=None))
    with pytest.raises(Refusal, match="the event's guidance has 100,007 bytes"):
        require_small_headers(call_of(many, NOTHING, namespace="shop", deadline=None))
    unread = event(text="x", guidance=["shop/tone"] * 2_000)
    with pytest.raises(Refusal, match="the event's guidance has 20,007 bytes, and 16,384 are read"):
        require_small_headers(call_of(unread, NOTHING, namespace="shop", deadline=None))
