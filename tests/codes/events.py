"""Failures that an event meets, each provoked end to end: published, read, refused, answered."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from tests.codes.case import Case, Provoke
from tests.codes.end_to_end import EndToEnd, as_refusal

from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.topics import event_topic, reply_topic, request_topic
from guideway.schemas.reply import Completed
from guideway.training.sets.build import Splitting
from guideway.training.sets.document import DocumentFields
from guideway.usecases.sets.make_sets import Order, make_sets

ENDPOINTS: Final = {
    "parcel": "{input: {fields: {text: {max_chars: 50}, weight: {type: integer, required: false}}}, output: "
    "{type: text}, generation: {max_tokens: 4}}",
    "form": "{input: {fields: {city: {}}, template: '{city}', text_field: null}, output: {type: text}}",
    "tags": "{input: {fields: {tags: {type: array}}, template: \"{join(', ', tags)}\", text_field: null}, "
    "output: {type: text}}",
    "short": "{max_text_chars: 40, output: {type: text}}",
    "long": "{max_text_chars: 1000000, output: {type: text}, generation: {max_tokens: 64}}",
    "late": "{deadline_s: 2, output: {type: text}}",
    "gone": "{output: {type: text}}",
    "open": "{request_guidance: [shop/tone], output: {type: text}}",
    "drawn": "{request_generation: {samples: 4, stop: true}, output: {type: choice, labels: [cat, dog]}}",
    "lost": "{guidance: [shop/nothing], output: {type: text}}",
    "borrowed": "{guidance: [other/theirs], output: {type: text}}",
    "vanished": "{guidance: [shop/vanished], output: {type: text}}",
    "torn": "{guidance: [shop/torn], output: {type: text}}",
    "foreign": "{guidance: [shop/foreign], output: {type: text}}",
    "mayor": "{input: {fields: {text: {}, town: {required: false}}}, retrieval: {sets: [shop/towns], filter: "
    "{town: town}, if_none: refuse}, output: {type: text}}",
    "strict": "{retrieval: {sets: [shop/towns], min_score: 0.99, if_none: refuse}, output: {type: text}}",
    "tight": "{retrieval: {sets: [shop/towns], min_score: 0, max_tokens: 2, if_none: refuse}, output: {type: text}}",
    "secret": "{retrieval: {sets: [other/secret]}, output: {type: text}}",
    "set-gone": "{retrieval: {sets: [shop/nothing]}, output: {type: text}}",
    "set-torn": "{retrieval: {sets: [shop/torn]}, output: {type: text}}",
    "other-vectors": "{retrieval: {sets: [shop/foreign-vectors]}, output: {type: text}}",
    "impossible": "{output: {type: json, schema: {type: integer, minimum: 5, maximum: 3}}}",
    "words": "{input: {fields: {text: {}, words: {required: false}}}, output: {type: word_labels, labels: [N,"
    " V], words_from: words}}",
    "code": "{output: {type: regex, pattern: '[a-z]{400}'}, generation: {max_tokens: 4}}",
    "note": "{output: {type: json, schema: {type: object, properties: {note: {type: string}}, required: "
    "[note]}}, generation: {max_tokens: 12}}",
    "count": "{instruction: Say a number., output: {type: json, schema: {type: integer}}}",
    "label": "{output: {type: choice, labels: [an uncommonly long label, another uncommonly long label]}, "
    "generation: {max_tokens: 1}}",
    "stopped": "{output: {type: json, schema: {type: object, properties: {a: {enum: [7]}}, required: [a]}}, "
    "generation: {stop: ['}']}}",
    "twice": "{output: {type: json, schema: {type: object, patternProperties: {^a$: {const: 1}}, "
    "additionalProperties: false, minProperties: 2}}}",
    "unsure": "{output: {type: boolean, probabilities: true, min_confidence: 0.999999, below: failed}}",
    "story": "{output: {type: text}, generation: {max_tokens: 300}}",
    "huge": "{model_size: huge, output: {type: text}}",
    "idle": "{model_size: idle, output: {type: text}}",
}
"""As they are written in YAML, without kind, namespace `shop`, name and model size `small`."""
PLAIN: Final = ("parcel", "gone")
"""Of these the page shows the manifest once."""


def event(
    code: FailureCode,
    endpoint: str,
    content: Any,
    remedy: str,
    *,
    shown: str = "",
    ago_s: float = 0,
    **headers: str,
) -> Case:
    """content: fields, text, bytes or null; shown: for what is too long to be."""
    value = content if isinstance(content, bytes | None) else content.encode() if isinstance(content, str) else None
    if value is None and content is not None:
        value = json.dumps(content).encode()
    headers = {
        name.replace("_type", "-type") if name == "content_type" else name: text for name, text in headers.items()
    }

    async def provoke(e2e: EndToEnd) -> Refusal:
        stamp = int((time.time() - ago_s) * 1000) if ago_s else None
        return as_refusal(await e2e.sent(event_topic("shop", endpoint), value, headers, timestamp_ms=stamp))

    text = shown or f"`{'null' if value is None else value.decode('utf-8', 'backslashreplace')}`"
    with_headers = "".join(f", header `{name}: {_abbreviated(text)}`" for name, text in headers.items())
    waited = f", read {ago_s:g} s later" if ago_s else ""
    return Case(code=code, example=f"{_to(endpoint)} {text}{with_headers}{waited}", remedy=remedy, provoke=provoke)


def _to(endpoint: str) -> str:
    manifest = "" if endpoint in PLAIN else f" `{ENDPOINTS[endpoint]}`"
    return f"to `/shop/{endpoint}`{manifest}:"


def _abbreviated(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:20]}… ({len(text)} characters)"


def other(code: FailureCode, example: str, remedy: str, provoke: Provoke) -> Case:
    return Case(code=code, example=example, remedy=remedy, provoke=provoke)


async def _cancelled(e2e: EndToEnd) -> Refusal:
    topic = event_topic("shop", "parcel")
    await e2e.producer.send_and_wait(topic, value=None, key=b"k", headers=[(header.CANCEL, b"order-17")])
    return await e2e.refused(topic, b"Hello", {header.REQUEST_ID: "order-17"})


async def _too_large_reply(e2e: EndToEnd) -> Refusal:
    """The request fits, with its headers, and the reply does not: how long they may be depends on both."""
    topic = event_topic("shop", "story")
    tries = [
        asyncio.create_task(e2e.sent(topic, b"Tell me a long story.", correlation=b"x" * size))
        for size in range(997_200, 999_600, 800)
    ]
    try:
        for ended in asyncio.as_completed(tries):
            came = await ended
            if isinstance(came, Refusal) and came.code is FailureCode.REPLY_TOO_LARGE:
                return came
    finally:
        # Of those too large for any reply there is a dead letter without headers.
        for one in tries:
            one.cancel()
    raise AssertionError("each was answered, or refused for another reason")


async def _misspelt(e2e: EndToEnd) -> Refusal:
    return await _refusal(e2e.client.submit("/shop/parcell", "Hello"))


async def _no_request(e2e: EndToEnd) -> Refusal:
    return await e2e.refused(request_topic("small", "batch"), b"nonsense")


async def _unreachable(e2e: EndToEnd) -> Refusal:
    async def enter() -> None:
        async with Client("127.0.0.1:1"):
            pass

    return await _refusal(enter())


async def _not_open(e2e: EndToEnd) -> Refusal:
    return await _refusal(Client(e2e.system.cluster).submit("/shop/parcel", "Hello"))


async def _not_of_this_version(e2e: EndToEnd) -> Refusal:
    """Nobody works for the size `idle`: what comes is what we write."""
    id_ = uuid.uuid4().hex
    waiting = asyncio.create_task(_refusal(e2e.client.submit("/shop/idle", "Hello", request_id=id_)))
    headers: Mapping[str, str] = {header.REQUEST_ID: id_, header.CLOUD_EVENT_SOURCE: "/shop/idle"}
    while not waiting.done():
        # Again until somebody waits for it.
        await e2e.producer.send_and_wait(
            reply_topic("shop", "idle"),
            value=b"{}",
            headers=[(name, text.encode()) for name, text in headers.items()],
            key=b"k",
        )
        await asyncio.wait([waiting], timeout=0.5)
    return waiting.result()


async def _no_server(e2e: EndToEnd) -> Refusal:
    away = msgspec.structs.replace(e2e.system.settings, qdrant_url="http://127.0.0.1:1")
    file = e2e.system.home / "half.txt"
    file.write_text("Some text.")
    order = Order(namespace="shop", name="half", documents=[file], columns=DocumentFields(), splitting=Splitting())
    return await _refusal(make_sets(away, [order]))


async def _refusal(work: Any) -> Refusal:
    try:
        came = await work
    except Refusal as refusal:
        return refusal
    assert not isinstance(came, Completed), "it was answered"
    return Refusal(came.code, came.message)


CALLER, OWNER, OPERATOR = "the caller", "the endpoint's owner", "the operator"
C: Final = FailureCode

EVENTS: Final = [
    event(C.UNDECODABLE_EVENT, "parcel", '{"text": ', "send JSON that is whole, or declare plain text"),
    event(C.UNDECODABLE_EVENT, "parcel", "[1]", "send an object of fields, or text", content_type="application/json"),
    event(C.UNDECODABLE_EVENT, "parcel", "Hello", "send JSON or text", content_type="application/avro"),
    event(C.UNDECODABLE_EVENT, "parcel", b"Gr\xfc\xdfe", "send UTF-8, or name the charset"),
    event(C.UNDECODABLE_EVENT, "parcel", None, "send a value; a null cancels, by the header `cancel`"),
    event(C.UNDECODABLE_EVENT, "form", "Hello", "send fields: this endpoint has no field for plain text"),
    event(C.MISSING_FIELD, "parcel", {"weight": 3}, "add the field"),
    event(C.UNKNOWN_FIELD, "parcel", {"text": "Hello", "txt": 1}, "remove or rename the field"),
    event(C.WRONG_FIELD, "parcel", {"text": 5}, "give it the declared type"),
    event(C.WRONG_FIELD, "parcel", {"text": " "}, "fill it in"),
    event(C.WRONG_FIELD, "tags", {"tags": [1]}, "give the field what the template's functions take"),
    event(C.TEXT_TOO_LONG, "parcel", "x" * 51, "shorten the field", shown="51 times `x`"),
    event(C.TEXT_TOO_LONG, "short", "x" * 41, "shorten the text; owners: `max_text_chars`", shown="41 times `x`"),
    event(
        C.TEXT_TOO_LONG, "long", "word " * 1000, "shorten the text, or lower `max_tokens`", shown="1,000 times `word `"
    ),
    event(C.TEXT_TOO_LONG, "long", "word " * 9000, "shorten the part that is named", shown="9,000 times `word `"),
    event(C.INVALID_HEADER, "parcel", "Hello", "write milliseconds, or RFC 3339", deadline="1764381000"),
    event(C.INVALID_HEADER, "parcel", "Hello", "write the guidance's full name", guidance="tone"),
    event(C.INVALID_HEADER, "parcel", "Hello", "choose a shorter id", request_id="x" * 201),
    other(C.UNKNOWN_ENDPOINT, "`client.submit(\"/shop/parcell\", \"Hello\")`", "correct the address", _misspelt),
    event(C.UNKNOWN_ENDPOINT, "gone", "Hello", "the endpoint was deleted: use another, or apply it again"),
    event(
        C.REPLY_ADDRESS_REFUSED, "parcel", "Hello", "name a reply topic of the endpoint's namespace",
        reply_to="gw.other.mine.out.v1",
    ),
    event(C.REPLY_ADDRESS_REFUSED, "parcel", "Hello", "create the topic first", reply_to="gw.shop.nowhere.out.v1"),
    event(
        C.REPLY_ADDRESS_REFUSED, "parcel", "Hello", "name a partition that is there, or none",
        reply_to="gw.shop.parcel.out.v1", kafka_replyPartition="9",
    ),
    event(C.DEADLINE_EXCEEDED, "parcel", "Hello", "set a later deadline", deadline="1700000000000"),
    event(C.DEADLINE_EXCEEDED, "late", "Hello", "send it again; owners: `deadline_s`, more workers", ago_s=60),
    other(
        C.CANCELLED, "to `/shop/parcel`: null, header `cancel: order-17`; then `Hello`, header `request_id: order-17`",
        "nothing; publish it under another id if it is wanted after all", _cancelled,
    ),
    event(C.GUIDANCE_UNKNOWN, "lost", "Hello", "owners: apply the guidance, or correct the list"),
    event(C.GUIDANCE_UNKNOWN, "open", "Hello", "name a version that is there, or none", guidance="shop/tone@9"),
    event(C.GUIDANCE_UNKNOWN, "set-gone", "Hello", "owners: create the set, or correct the list"),
    event(C.GUIDANCE_FORBIDDEN, "parcel", "Hello", "leave it out; owners: `request_guidance`", guidance="shop/tone"),
    event(C.GUIDANCE_FORBIDDEN, "borrowed", "Hello", "the guidance's owner: `shared_with`"),
    event(C.GUIDANCE_FORBIDDEN, "secret", "Hello", "the set's owner: `guideway sets create --share`"),
    event(
        C.GENERATION_REFUSED, "parcel", "Hello", "leave it out; owners: `request_generation`",
        generation='{"temperature": 0.7}',
    ),
    event(
        C.GENERATION_REFUSED, "drawn", "Hello", "ask for less; owners: `request_generation`",
        generation='{"samples": 9}',
    ),
    event(C.GENERATION_REFUSED, "drawn", "Hello", "leave that stop string out", generation='{"stop": ["t"]}'),
    event(C.GUIDANCE_MISSING, "vanished", "Hello", "operators: the artefact store; then publish again"),
    event(C.GUIDANCE_DAMAGED, "torn", "Hello", "its owner: publish the artefact again"),
    event(C.GUIDANCE_DAMAGED, "set-torn", "Hello", "its owner: create the set again"),
    event(C.GUIDANCE_WRONG_MODEL, "foreign", "Hello", "its owner: train it on this model, or use the size it is for"),
    event(C.NO_PASSAGE, "mayor", {"text": "Who is the mayor?", "town": "Rome"}, "give the filter what passages have"),
    event(C.NO_PASSAGE, "strict", "What is the capital of France?", "ask otherwise; owners: `min_score`, `if_none`"),
    event(C.NO_PASSAGE, "tight", "Who is the mayor?", "owners: `retrieval.max_tokens`, shorter passages"),
    event(C.SET_WRONG_EMBEDDING, "other-vectors", "Hello", "the set's owner: create it anew; or `GUIDEWAY_EMBEDDING`"),
    other(
        C.RETRIEVAL_FAILED, "`GUIDEWAY_QDRANT_URL=http://127.0.0.1:1 guideway sets create shop/half half.txt`",
        "operators: the server and its address; then again", _no_server,
    ),
    event(C.OUTPUT_UNSATISFIABLE, "impossible", "Hello", "owners: the schema (`apply` refuses it, where it can try)"),
    event(C.OUTPUT_UNSATISFIABLE, "words", "Hello", "give the field whose words are to be labelled"),
    event(C.OUTPUT_INCOMPLETE, "code", "Hello", "owners: bound the repetitions, or raise `max_tokens`"),
    event(C.OUTPUT_INCOMPLETE, "note", "Write a long note.", "owners: `maxLength` for that string, or `max_tokens`"),
    event(C.OUTPUT_INCOMPLETE, "count", "Say a number.", "owners: `maximum`, or another instruction"),
    event(C.OUTPUT_INCOMPLETE, "label", "Hello", "owners: raise `max_tokens`, or shorten the labels"),
    event(C.OUTPUT_INCOMPLETE, "stopped", "Hello", "owners: take the stop string out"),
    event(C.NOT_CONFIDENT, "unsure", "Hello", "owners: another instruction or training, or a lower `min_confidence`"),
    event(C.OUTPUT_UNREADABLE, "twice", "Hello", "owners: declare the properties, and no others"),
    other(
        C.REPLY_TOO_LARGE, f"{_to('story')} `Tell me a long story.`, header `correlation_id` of 998 kB",
        "shorten what is named; owners: `max_tokens`, `samples`", _too_large_reply,
    ),
    other(
        C.UNDECODABLE_REQUEST, "on `gw.infer.small.batch.v1`: `nonsense`",
        "a dead letter; operators: who else writes there?", _no_request,
    ),
    event(C.UNKNOWN_MODEL_SIZE, "huge", "Hello", "operators: apply the model, start a worker; then publish again"),
    other(
        C.BROKER_UNREACHABLE, '`async with Client("127.0.0.1:1") as client:`', "the brokers, or their address",
        _unreachable,
    ),
    other(
        C.INVALID_SETTING, '`Client("localhost:9092").submit("/shop/parcel", "Hello")`', "enter the client first",
        _not_open,
    ),
    other(
        C.INTERNAL_ERROR, '`client.submit("/shop/idle", "Hello")`, and somebody else writes `{}` as its reply',
        "operators: versions, and who writes to reply topics; else report it", _not_of_this_version,
    ),
]  # fmt: skip
