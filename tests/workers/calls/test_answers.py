"""A reply in the form that its caller wants; targets get JSON, whatever that is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.protos import SHOP, compiled, theirs

from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.protobuf.descriptor_set import embedded
from guideway.catalogue.protobuf.message_type import MessageType, message_type
from guideway.catalogue.protobuf.pruning import pruned
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.replies import reply_in
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.kinds.targets import WebhookUse
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.names.service_topics import catalogue_topic, results_topic
from guideway.schemas.output import Json, Text
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Failed, Sample, Usage
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.wire import MANIFEST, REQUEST, Undecodable
from guideway.workers import answers
from guideway.workers.answers import leaving_of, refused

MOOD = "shop.v1.TicketMood"
KIND = message_type(embedded(pruned(compiled(SHOP), [MOOD])), MOOD)
RECORD = Record(
    topic="gw.infer.small.interactive.v1", partition=0, offset=0, timestamp_ms=0, key=b"k", value=b"", headers=()
)


def request(message: str | None, **more: Any) -> Request:
    return Request(
        id="r",
        namespace="shop",
        endpoint="mood",
        endpoint_version=1,
        parts=[Part(kind="input", source="caller", text="a")],
        guidance=[],
        words=[],
        generation=Generation(),
        reply_to=[ReplyAddress(topic="gw.shop.mine.out.v1"), ReplyAddress(topic="gw.shop.target.out.v1")],
        deadline_ms=None,
        reply_message=message,
        **{"output": Text()} | more,
    )


def completed(value: Any = "good") -> Completed:
    return Completed(
        id="r",
        namespace="shop",
        endpoint="mood",
        endpoint_version=1,
        samples=[Sample(value=value, text="good", finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="f",
    )


def answered(request: Request, record: Record, completed: Completed, own: MessageType | None) -> list[Outgoing]:
    return answers.answered(request, record, completed, request.reply_to, own)


def told(out: Outgoing) -> tuple[str, str]:
    headers = dict(out.headers)
    return (headers["content-type"] or b"").decode(), (headers["guideway_status"] or b"").decode()


def record(out: Outgoing) -> Record:
    return msgspec.structs.replace(RECORD, topic=out.topic, key=out.key, value=out.value, headers=out.headers)


def test_without_a_wish_everybody_gets_json() -> None:
    records = answered(request(None), RECORD, completed(), None)
    assert {told(out) for out in records} == {("application/json", "completed")}
    assert [reply_in(record(out)) for out in records] == [completed()] * 2


def test_our_message_is_for_the_caller_alone() -> None:
    callers, targets = answered(request(REPLY_MESSAGE), RECORD, completed(), None)
    assert told(callers) == ("application/protobuf; messageType=guideway.v1.Reply", "completed")
    assert told(targets) == ("application/json", "completed")
    assert reply_in(record(callers)) == reply_in(record(targets)) == completed()


def test_the_endpoints_message_holds_the_value() -> None:
    callers, targets = answered(request(MOOD), RECORD, completed(), KIND)
    assert told(callers) == (f"application/protobuf; messageType={MOOD}", "completed")
    assert theirs(MOOD).FromString(callers.value).mood == "good"
    assert reply_in(record(targets)) == completed()
    with pytest.raises(Undecodable, match="of the endpoint's own"):
        reply_in(record(callers))


def test_a_failure_is_our_message_whatever_was_wanted() -> None:
    for message in (MOOD, REPLY_MESSAGE):
        (out,) = refused(request(message), RECORD, Refusal(FailureCode.CANCELLED, "its caller cancelled it"))
        assert told(out) == ("application/protobuf; messageType=guideway.v1.Reply", "failed")
        reply = reply_in(record(out))
        assert isinstance(reply, Failed)
        assert (reply.id, reply.code, reply.message) == ("r", FailureCode.CANCELLED, "its caller cancelled it")


def test_a_reply_too_large_is_our_message_too() -> None:
    (out,) = answered(request(REPLY_MESSAGE), RECORD, completed("x" * 1_100_000), None)
    assert told(out) == ("application/protobuf; messageType=guideway.v1.Reply", "failed")
    reply = reply_in(record(out))
    assert isinstance(reply, Failed)
    assert reply.code is FailureCode.REPLY_TOO_LARGE


def test_a_value_that_does_not_fit_is_a_refusal() -> None:
    with pytest.raises(Refusal, match=r"does not fit into message shop\.v1\.TicketMood \(field mood cannot") as caught:
        answered(request(MOOD, output=Json(schema={})), RECORD, completed({"mood": 5}), KIND)
    assert caught.value.code is FailureCode.OUTPUT_UNREADABLE


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"\x0a\x01a", b"\x22\x00", b"\x2a\x00"])
def test_no_reply_is_undecodable(value: bytes | None) -> None:
    headers = [("content-type", b"application/protobuf; messageType=guideway.v1.Reply")]
    with pytest.raises(Undecodable):
        reply_in(Record(topic="t", partition=0, offset=0, timestamp_ms=0, key=None, value=value, headers=headers))


def test_a_dead_letter_with_the_headers_of_a_reply_is_no_result_of_the_endpoint() -> None:
    catalogue = Catalogue()
    endpoint = Endpoint(
        namespace="shop", name="mood", model_size="small", output=Text(), targets=[WebhookUse(webhook="crm")]
    )
    catalogue.absorb(catalogue_topic("shop"), Identity.of(endpoint).key(1), MANIFEST.encode(endpoint))
    forged = msgspec.structs.replace(
        RECORD, value=REQUEST.encode(request(None)), headers=((header.STATUS, b"completed"),)
    )
    letter = dead_letter(forged, FailureCode.NOT_ALLOWED, "why")
    assert leaving_of([letter], request(None), forged, catalogue) == []
    reply = refused(request(None), forged, Refusal(FailureCode.NOT_ALLOWED, "why"), keep=True)
    (told,) = leaving_of(reply, request(None), forged, catalogue)
    assert told.topic == results_topic("shop")
