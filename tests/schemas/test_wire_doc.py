"""docs/wire.md says what the code does: names, codes, types and examples are compared with schemas/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.replies import reply_records
from guideway.producers.events.envelope import read_envelope
from guideway.producers.events.read_event import read_event
from guideway.schemas.failures import FailureCode
from guideway.schemas.generation import Generation
from guideway.schemas.names import addresses, clients, content_types, groups, header, service_topics, topics
from guideway.schemas.names.addresses import BATCH_REPLIES, CALL, GATEWAY, RESERVED_ENDPOINTS, RESERVED_NAMESPACES
from guideway.schemas.names.groups import workers_group
from guideway.schemas.names.service_topics import (
    AUDIT_TOPIC,
    CALIBRATIONS_TOPIC,
    HELD_WEBHOOKS_TOPIC,
    KEYS_TOPIC,
    ROUTED_TOPIC,
    USAGE_TOPIC,
    accepted_topic,
    batch_cancel_topic,
    batch_events_topic,
    batch_topic,
    catalogue_topic,
    deliveries_topic,
    results_topic,
    shadows_topic,
    training_cancel_topic,
    training_events_topic,
    training_topic,
)
from guideway.schemas.names.topics import (
    LANES,
    batch_call_topic,
    call_topic,
    cancellation_topic,
    dead_letter_topic,
    event_topic,
    partial_topic,
    reply_topic,
    request_topic,
)
from guideway.schemas.output import OutputRule
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.request import ReplyAddress, Request
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import AUDITED, CANCELLATION, PARTIAL, REPLY, REQUEST, ROUTING_ANSWER, ROUTING_QUESTION

DOCUMENT = Path(__file__).parents[2].joinpath("docs", "wire.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- decodes as: ([a-z ]+) -->\n)?```json\n(.*?)```", DOCUMENT, re.DOTALL)


def examples(kind: str) -> list[bytes]:
    return [text.encode() for marked, text in BLOCKS if marked == kind]


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = DOCUMENT.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.split("\n") if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return table[2:]


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def record(**headers: bytes) -> Record:
    return Record(
        topic="gw.public.fact-yes-no.in.v1",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=None,
        value=b"",
        headers=list(headers.items()),
    )


def test_every_name_of_the_wire_is_in_the_document() -> None:
    constants = {
        name: value
        for module in (addresses, clients, content_types, groups, header, service_topics, topics)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    for pattern in (
        "EVENT_TOPICS",
        "AUDITED_TOPICS",
        "TRAINING_TOPICS",
        "BATCH_TOPICS",
        "LEAVING_TOPICS",
    ):  # for our own subscriptions; the topics are below
        del constants[pattern]
    assert {"CORRELATION_ID", "CALIBRATIONS_TOPIC", "DEAD_LETTER_PREFIX", "ENDPOINTS_GROUP"} <= set(constants)
    for value in [
        *constants.values(),
        *header.ECHOED_HEADERS,
        *LANES,
        *RESERVED_NAMESPACES,
        *RESERVED_ENDPOINTS,
    ]:
        assert f"`{value}" in DOCUMENT, value


def test_every_topic_is_in_the_document() -> None:
    listed = {cells[0].strip("`") for cells in rows("Topics")}
    assert listed == {
        event_topic("NAMESPACE", "ENDPOINT"),
        reply_topic("NAMESPACE", "ENDPOINT"),
        partial_topic("NAMESPACE", "NAME"),
        call_topic("NAMESPACE"),
        reply_topic("NAMESPACE", CALL),
        reply_topic("NAMESPACE", GATEWAY),
        partial_topic("NAMESPACE", GATEWAY),
        accepted_topic("NAMESPACE"),
        KEYS_TOPIC,
        request_topic("SIZE", "LANE"),
        cancellation_topic("SIZE"),
        dead_letter_topic("TOPIC"),
        catalogue_topic("NAMESPACE"),
        shadows_topic("NAMESPACE"),
        CALIBRATIONS_TOPIC,
        AUDIT_TOPIC,
        ROUTED_TOPIC,
        USAGE_TOPIC,
        results_topic("NAMESPACE"),
        deliveries_topic("NAMESPACE"),
        HELD_WEBHOOKS_TOPIC,
        batch_call_topic("NAMESPACE"),
        batch_topic("NAMESPACE"),
        batch_events_topic("NAMESPACE"),
        batch_cancel_topic("NAMESPACE"),
        reply_topic("NAMESPACE", BATCH_REPLIES),
        training_topic("NAMESPACE"),
        training_events_topic("NAMESPACE"),
        training_cancel_topic("NAMESPACE"),
    }
    assert workers_group("SIZE") in DOCUMENT
    assert reply_topic("NAMESPACE", "NAME") in DOCUMENT


def test_failure_codes_are_those_of_the_code() -> None:
    listed = {cells[0].strip("`"): cells[1] for cells in rows("Failure codes")}
    assert listed == {code.value: "yes" if code.retryable else "no" for code in FailureCode}
    assert all(len(cells) == 3 and all(cells) for cells in rows("Failure codes"))


def test_output_types_are_those_of_the_code() -> None:
    listed = {cells[0].strip("`") for cells in rows("Output types and their values")}
    assert listed == {msgspec.inspect.type_info(rule).tag for rule in get_args(OutputRule)}  # type: ignore[attr-defined]


def test_examples_of_messages_decode() -> None:
    completed, failed = (REPLY.decode(example) for example in examples("reply"))
    assert isinstance(completed, Completed)
    assert isinstance(failed, Failed)
    (request,) = (REQUEST.decode(example) for example in examples("request"))
    (cancellation,) = (CANCELLATION.decode(example) for example in examples("cancellation"))
    (question,) = (ROUTING_QUESTION.decode(example) for example in examples("question"))
    (answer,) = (ROUTING_ANSWER.decode(example) for example in examples("answer"))
    assert question.id == answer.id
    (piece,) = (PARTIAL.decode(example) for example in examples("partial"))
    (audited,) = (AUDITED.decode(example) for example in examples("audited"))
    kinds = ("reply", "partial", "request", "cancellation", "audited")
    written = [example for kind in kinds for example in examples(kind)]
    for message, example in zip([completed, failed, piece, request, cancellation, audited], written, strict=True):
        assert msgspec.to_builtins(message) == json.loads(example)


def test_examples_of_events_decode() -> None:
    (fields,) = examples("event")
    (cloud_event,) = examples("cloud event")
    plain = read_event(read_envelope(msgspec.structs.replace(record(), value=fields)))
    structured = record(**{"content-type": b"application/cloudevents+json"})
    event = read_event(read_envelope(msgspec.structs.replace(structured, value=cloud_event)))
    assert plain.content == event.content == {"text": "Is the Earth round?"}
    assert event.id == "order-17"


def test_all_json_in_the_document_is_json_and_marked() -> None:
    for marked, text in BLOCKS:
        assert marked, text
        json.loads(text)


@pytest.mark.parametrize(("heading", "kind"), [("Completed", Completed), ("Failed", Failed)])
def test_every_field_of_a_reply_is_explained(heading: str, kind: type[Any]) -> None:
    explained = {name.split(".")[0].removesuffix("[]") for cells in rows(heading) for name in quoted(cells[0])}
    assert explained == {"schema"} | {field.encode_name for field in msgspec.structs.fields(kind)}


def test_every_field_of_a_request_is_explained_or_that_of_a_reply() -> None:
    explained = {name for cells in rows("Requests, for tools") for name in quoted(cells[0])}
    shared = {"id", "namespace", "endpoint", "endpoint_version"}
    assert explained | shared == {field.encode_name for field in msgspec.structs.fields(Request)}
    (cell,) = (cells[1] for cells in rows("Requests, for tools") if cells[0] == "`generation`")
    assert quoted(cell) == {field.encode_name for field in msgspec.structs.fields(Generation)}


def test_every_field_of_the_audit_trail_is_explained() -> None:
    explained = {name for cells in rows("The audit trail") for name in quoted(cells[0])}
    assert explained == {field.encode_name for field in msgspec.structs.fields(Audited)}


def test_headers_of_events_are_those_that_are_read_or_echoed() -> None:
    listed = {name for cells in rows("Headers of an event") for name in quoted(cells[0])}
    foreign = {*header.REPLY_TOPIC_HEADERS, *header.REPLY_PARTITION_HEADERS, *header.CONTENT_TYPE_HEADERS}
    ours = {
        header.REPLY_TO,
        header.CONTENT_TYPE,
        header.REQUEST_ID,
        header.DEADLINE,
        header.GUIDANCE,
        header.GENERATION,
        header.CANCEL,
    }
    ours |= {header.ENDPOINT, header.PARTIAL, header.ACCEPT}
    assert listed == ours | foreign | header.ECHOED_HEADERS | {f"{header.CLOUD_EVENT_PREFIX}id"}


def test_headers_of_replies_are_those_that_are_written() -> None:
    listed = {name for cells in rows("Headers of a reply") for name in quoted(cells[0])}
    written: set[str] = set()
    for example in examples("reply"):
        (reply,) = reply_records(REPLY.decode(example), [ReplyAddress(topic="t")], record())
        written |= {name for name, _ in reply.headers}
    assert listed == written


def test_headers_of_dead_letters_are_those_that_are_written() -> None:
    large = msgspec.structs.replace(record(), value=b"x" * 2_000_000)
    listed = {name for cells in rows("Dead letters") for name in quoted(cells[0])}
    connect = next(name for name in listed if name.startswith(header.CONNECT_ERROR_PREFIX)).rpartition(".")[0]
    listed = {connect + name if name.startswith(".") else name for name in listed}
    assert listed == {name for name, _ in dead_letter(large, FailureCode.INTERNAL_ERROR, "why").headers}
