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
from guideway.schemas import names
from guideway.schemas.failures import FailureCode
from guideway.schemas.generation import Generation
from guideway.schemas.output import OutputRule
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.request import ReplyAddress, Request
from guideway.schemas.wire import CANCELLATION, REPLY, REQUEST

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
    constants = {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    del constants["EVENT_TOPICS"]  # a pattern for our own subscription; the topics are below
    assert {"CORRELATION_ID", "CATALOGUE_TOPIC", "DEAD_LETTER_PREFIX", "ENDPOINTS_GROUP"} <= set(constants)
    for value in [*constants.values(), *names.ECHOED_HEADERS, *names.LANES, *names.RESERVED_NAMESPACES]:
        assert f"`{value}" in DOCUMENT, value


def test_every_topic_is_in_the_document() -> None:
    listed = {cells[0].strip("`") for cells in rows("Topics")}
    assert listed == {
        names.event_topic("NAMESPACE", "ENDPOINT"),
        names.reply_topic("NAMESPACE", "ENDPOINT"),
        names.request_topic("SIZE", "LANE"),
        names.cancellation_topic("SIZE"),
        names.dead_letter_topic("TOPIC"),
        names.CATALOGUE_TOPIC,
        names.TRAINING_JOBS_TOPIC,
        names.TRAINING_EVENTS_TOPIC,
        names.TRAINING_CANCEL_TOPIC,
    }
    assert names.workers_group("SIZE") in DOCUMENT
    assert names.reply_topic("NAMESPACE", "NAME") in DOCUMENT


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
    written = [*examples("reply"), *examples("request"), *examples("cancellation")]
    for message, example in zip([completed, failed, request, cancellation], written, strict=True):
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


def test_headers_of_events_are_those_that_are_read_or_echoed() -> None:
    listed = {name for cells in rows("Headers of an event") for name in quoted(cells[0])}
    foreign = {*names.REPLY_TOPIC_HEADERS, *names.REPLY_PARTITION_HEADERS}
    ours = {names.REPLY_TO, names.CONTENT_TYPE, names.REQUEST_ID, names.DEADLINE, names.GUIDANCE, names.CANCEL}
    assert listed == ours | foreign | names.ECHOED_HEADERS | {f"{names.CLOUD_EVENT_PREFIX}id"}


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
    connect = next(name for name in listed if name.startswith(names.CONNECT_ERROR_PREFIX)).rpartition(".")[0]
    listed = {connect + name if name.startswith(".") else name for name in listed}
    assert listed == {name for name, _ in dead_letter(large, FailureCode.INTERNAL_ERROR, "why").headers}
