"""Which endpoint an event is for, and who calls it."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from guideway.producers.events.addressee import Addressee, addressee
from guideway.producers.events.envelope import read_envelope
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import sender_of_topic
from guideway.schemas.record import Record

MakeRecord = Callable[..., Record]


def called(record: Record) -> Addressee | None:
    return addressee(read_envelope(msgspec.structs.replace(record, topic="gw.shop.call.v1")))


@pytest.mark.parametrize(
    ("written", "namespace", "foreign"),
    [("/reviews/mood", "reviews", "shop"), ("reviews/mood", "reviews", "shop"), ("mood", "shop", None)],
)
def test_a_call_names_its_endpoint(make_record: MakeRecord, written: str, namespace: str, foreign: str | None) -> None:
    found = called(make_record(endpoint=written))
    assert found == Addressee(namespace, "mood", "shop")
    assert found.foreign_caller == foreign


def test_a_cloud_event_names_it_as_an_attribute(make_record: MakeRecord) -> None:
    binary = called(make_record(ce_id="1", ce_source="/x", ce_type="t", ce_specversion="1.0", ce_endpoint="/a/b"))
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "endpoint": "/a/b", "data": {"text": "x"}}
    structured = called(make_record(json.dumps(event).encode(), content__type="application/cloudevents+json"))
    assert binary == structured == Addressee("a", "b", "shop")
    assert called(make_record(ce_endpoint="/a/b", endpoint="/c/d")) == Addressee("c", "d", "shop"), "the header wins"


def test_a_call_may_name_none(make_record: MakeRecord) -> None:
    assert called(make_record()) is None
    assert called(make_record(endpoint="")) is None


@pytest.mark.parametrize(
    "written",
    ["/", "/../mood", "/shop/../mood", "//mood", "/reviews/mood/", "/reviews//mood", "/Reviews/mood", "/reviews/möod",
     "/revi\u0435ws/mood", "/reviews/mood\n", " /reviews/mood", "/reviews/mood@2", f"/{'a' * 64}/mood", "x" * 5000],
)  # fmt: skip
def test_what_is_no_address_is_refused(make_record: MakeRecord, written: str) -> None:
    with pytest.raises(Refusal) as caught:
        called(make_record(endpoint=written))
    assert caught.value.code is FailureCode.INVALID_HEADER
    assert "/NAMESPACE/NAME" in caught.value.message
    assert len(caught.value.message) < 400


def test_on_an_endpoints_own_topic_the_header_says_nothing(make_record: MakeRecord) -> None:
    assert addressee(read_envelope(make_record(endpoint="/a/b"))) == Addressee("team", "task", "team")


@pytest.mark.parametrize("topic", ["gw.shop.call.v1", "gw.shop.mood.in.v1"])
def test_the_senders_namespace_is_that_of_the_topic(topic: str) -> None:
    assert sender_of_topic(topic) == "shop"
