"""What the first hop can meet: each record ends as one coded failed reply or one dead letter, and holds up nobody."""

from __future__ import annotations

from collections import Counter

from tests.workers.end_to_end import EndToEnd, until

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.schemas.failures import FailureCode
from guideway.schemas.names import header
from guideway.schemas.names.topics import dead_letter_topic, event_topic, reply_topic
from guideway.schemas.reply import Completed

MB = b"x" * 1_000_000
JSON = ("content-type", b"application/json")
UNDECODABLE = FailureCode.UNDECODABLE_EVENT
INVALID = FailureCode.INVALID_HEADER
ANSWERED: list[tuple[str, str, bytes | None, list[tuple[str, bytes]], FailureCode]] = [
    ("no UTF-8", "task", b"\xff\xfd", [], UNDECODABLE),
    ("no UTF-8 in JSON", "task", b'{"text": "\xff"}', [], UNDECODABLE),
    ("deep arrays", "task", b"[" * 100_000 + b"]" * 100_000, [JSON], UNDECODABLE),
    ("deep objects", "task", b'{"text":' * 100_000 + b"1" + b"}" * 100_000, [], UNDECODABLE),
    ("deep CloudEvent", "task", b'{"id":' * 100_000, [("content-type", b"application/cloudevents+json")], UNDECODABLE),
    ("a name twice", "task", b'{"text": "a", "text": "b"}', [], UNDECODABLE),
    ("a float that none can hold", "task", b'{"text": 1e999}', [], UNDECODABLE),
    ("an integer of 5,000 digits", "task", b'{"text": ' + b"9" * 5000 + b"}", [], UNDECODABLE),
    ("an integer that no float can hold", "mean", b'{"n": [' + b"9" * 400 + b"]}", [], FailureCode.WRONG_FIELD),
    ("null", "task", None, [], UNDECODABLE),
    ("null with a huge cancel", "task", None, [("cancel", MB)], UNDECODABLE),
    ("huge request_id", "task", b"hello", [("request_id", MB)], INVALID),
    ("huge ce_id", "task", b"hello", [("ce_id", MB)], INVALID),
    ("huge reply_to", "task", b"hello", [("reply_to", MB)], INVALID),
    ("huge kafka_replyTopic", "task", b"hello", [("kafka_replyTopic", MB)], INVALID),
    ("huge partition", "task", b"hello", [("reply_to", b"a"), ("kafka_replyPartition", MB)], INVALID),
    ("huge content-type", "task", b"hello", [("content-type", MB)], INVALID),
    ("huge deadline", "task", b"hello", [("deadline", b"9" * 1_000_000)], INVALID),
    ("huge guidance", "task", b"hello", [("guidance", MB + b"/a")], INVALID),
    ("many guidances", "task", b"hello", [("guidance", b"a/b," * 4000)], FailureCode.GUIDANCE_FORBIDDEN),
    ("too many guidances", "task", b"hello", [("guidance", b"a/b," * 250_000)], INVALID),
    ("long reply_to", "task", b"hello", [("reply_to", b"a" * 10_000)], FailureCode.REPLY_ADDRESS_REFUSED),
    ("long content-type", "task", b"hello", [("content-type", b"a" * 10_000)], UNDECODABLE),
    ("huge version", "task", b"hello", [("guidance", b"a/b@" + b"9" * 5000)], INVALID),
]
KEPT = [header.CORRELATION_ID, header.SPRING_CORRELATION_ID, header.TRACEPARENT, header.TRACESTATE]
"""Echoed headers, which leave no room for a reply where they are huge."""


async def test_each_poison_is_one_failed_reply_or_one_dead_letter(system: EndToEnd) -> None:
    writer = make_producer(system.cluster, "test", max_request_size=4_000_000)
    async with started(writer, system.cluster) as producer:
        for number, (_, endpoint, value, headers, _) in enumerate(ANSWERED):
            ours = [(header.CORRELATION_ID, str(number).encode()), *headers]
            await producer.send_and_wait(event_topic(system.name, endpoint), value, key=b"k", headers=ours)
        for name in KEPT:
            topic = event_topic(system.name, "task")
            # The endpoint refuses it, and there is no room to say so.
            await producer.send_and_wait(topic, b"\xff", key=name.encode(), headers=[(name, MB)])
        await producer.send_and_wait(event_topic(system.name, "task"), b"hello", headers=[("x", MB)])
    replies = [reply_topic(system.name, endpoint) for endpoint in ("task", "mean")]
    letters = dead_letter_topic(event_topic(system.name, "task"))

    async def all_ended() -> bool:
        answered = sum([len(await system.records(topic)) for topic in replies])
        return answered == len(ANSWERED) + 1 and len(await system.records(letters)) == len(KEPT)

    async with system.worker():
        await until(all_ended)
    told: dict[str, list[str]] = {what: [] for what, *_ in ANSWERED}
    for topic in replies:
        for record in await system.records(topic):
            assert len(record.value or b"") < 2000, "no message quotes what is huge"
            correlation = record.header(header.CORRELATION_ID)
            if correlation is not None:
                told[ANSWERED[int(correlation)][0]].append((record.header(header.FAILURE_CODE) or b"").decode())
    assert told == {what: [code.value] for what, _, _, _, code in ANSWERED}
    kept = [(letter.key, letter.header("guideway_dlq_code")) for letter in await system.records(letters)]
    assert Counter(kept) == Counter((name.encode(), b"reply_too_large") for name in KEPT)
    (good,) = [reply for reply in await system.replies() if isinstance(reply, Completed)]
    assert good.value == "hello", "a header that is not read does no harm"
