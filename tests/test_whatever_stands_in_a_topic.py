"""Whoever may write a topic may write anything: everybody who reads one takes it, counts it or passes over it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from guideway.cli.dlq.view import print_letter, view
from guideway.delivery.clients.kafka_client import as_record
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.replay.decision import Replayed, Selection, decide
from guideway.producers.client.reply_reader import ReplyReader
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.wire import CANCELLATION, CATALOGUE_ENTRY, MANIFEST, REPLY, REQUEST, Codec, Undecodable
from guideway.training.jobs.messages import JOB, JOB_CANCELLED, JOB_NEWS, Followed, unread_job_ended
from guideway.training.jobs.service import JobService, TrainerSettings
from guideway.workers.cancellations import Cancellations

GOLDEN = [path.read_bytes() for path in sorted(Path(__file__).parent.joinpath("schemas", "golden").iterdir())]
TASK = {"namespace": "t", "endpoint": "e", "model_sizes": ["s"], "data": {"train": "a"}, "output": {"type": "boolean"}}
MESSAGES: list[Any] = [
    *map(msgspec.json.decode, GOLDEN),
    {"schema": "guideway.job.v1", "id": "a", "task": {"kind": "task/v1", **TASK}},
    {"schema": "guideway.job_ended.v1", "job": "a", "outcome": "done", "run": "x"},
    {"schema": "guideway.job_event.v1", "job": "a", "number": 1, "event": {"event": "stopped"}},
    {"schema": "guideway.job_cancelled.v1", "job": "a"},
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def nearly_messages(draw: st.DrawFn) -> bytes:
    """A message in which something else stands at one place or two."""
    message = msgspec.json.decode(msgspec.json.encode(draw(st.sampled_from(MESSAGES))))
    for _ in range(draw(st.integers(1, 2))):
        at = message
        while isinstance(at, dict | list) and at:
            key = draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else draw(st.integers(0, len(at) - 1))
            if not isinstance(at[key], dict | list) or draw(st.booleans()):
                at[key] = draw(ANY_JSON)
                break
            at = at[key]
    return msgspec.json.encode(message)


VALUES = st.one_of(
    st.none(),
    st.binary(max_size=40),
    ANY_JSON.map(msgspec.json.encode),
    nearly_messages(),
    st.sampled_from([b"[" * 100_000, b'{"schema":' * 100_000, b'{"number":' + b"9" * 5000 + b"}", b"1e999", b"\xff"]),
)
OURS = [
    header.CORRELATION_ID,
    header.REQUEST_ID,
    header.CLOUD_EVENT_SOURCE,
    *(
        f"{header.DEAD_LETTER_PREFIX}{part}"
        for part in ("topic", "partition", "offset", "timestamp_ms", "code", "message")
    ),
]
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(OURS) | st.text(max_size=5),
        st.none() | st.binary(max_size=5) | st.sampled_from([b"0", b"-1", b"9" * 30, b"9" * 5000, b"gw.a.b.in.v1"]),
    ),
    max_size=8,
)


@st.composite
def records(draw: st.DrawFn) -> ConsumerRecord[bytes, bytes]:
    value = draw(VALUES)
    return ConsumerRecord(
        topic="gw.a.b.in.v1.dlq",
        partition=0,
        offset=draw(st.integers(0, 2**63 - 1)),
        timestamp=draw(st.integers(-1, 2**63 - 1)),
        timestamp_type=0,
        key=draw(st.none() | st.binary(max_size=10)),
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=len(value or b""),
        headers=draw(HEADERS),
    )


CODECS: list[Codec[Any]] = [REQUEST, CANCELLATION, REPLY, MANIFEST, CATALOGUE_ENTRY, JOB, JOB_NEWS, JOB_CANCELLED]


@given(VALUES)
def test_every_codec_decodes_or_says_that_it_cannot(value: bytes | None) -> None:
    for codec in CODECS:
        with contextlib.suppress(Undecodable):
            message = codec.decode(value)
            assert codec.decode(codec.encode(message)) == message


@given(records())
def test_a_dead_letter_is_shown_and_decided_on_whatever_it_is(found: ConsumerRecord[bytes, bytes]) -> None:
    record = as_record(found)
    letter = view(record, replayed=False, with_value=True)
    msgspec.json.encode(letter)
    print_letter(letter)
    decide(record, Selection(), Replayed())


@given(st.lists(records(), max_size=3))
def test_a_trainer_and_who_watches_it_go_on(found: list[ConsumerRecord[bytes, bytes]]) -> None:
    async def read() -> None:
        service = JobService(TrainerSettings(cluster=Cluster("localhost:1"), jobs=Path("jobs"), command=("guideway",)))
        followed = Followed("a")
        for one in found:
            service._note([one])
            unread_job_ended(one.key, "no job")
            try:
                followed.is_new(JOB_NEWS.decode(one.value))
            except Undecodable:
                continue

    asyncio.run(read())


@given(records())
def test_a_cancellation_is_heeded_or_not(found: ConsumerRecord[bytes, bytes]) -> None:
    try:
        cancellation = CANCELLATION.decode(found.value)
    except Undecodable:
        return
    Cancellations().cancel(cancellation, at_s=found.timestamp / 1000, now=time.time())


@given(records())
def test_a_reply_reader_answers_those_who_wait_or_nobody(found: ConsumerRecord[bytes, bytes]) -> None:
    async def read() -> None:
        reader = ReplyReader(Cluster("localhost:1"), "gw.a.b.out.v1")
        correlation = as_record(found).header(header.CORRELATION_ID) or b""
        future = reader.expect(correlation, ("", ""))
        reader._hand_out(as_record(found))
        assert isinstance(future.exception(), Refusal | None)
        await reader.abandon()

    asyncio.run(read())


async def failing(error: Exception) -> AsyncIterator[Any]:
    raise error
    yield


@pytest.mark.parametrize("error", [AssertionError("nobody has thought of this"), ValueError(), RecursionError()])
async def test_who_waits_for_a_reply_is_told_when_nobody_reads_on(error: Exception) -> None:
    """It would wait for its own time-out, five minutes as a rule."""
    reader = ReplyReader(Cluster("localhost:1"), "gw.a.b.out.v1")
    await reader._consumer.stop()
    future = reader.expect(b"1", None)
    reader._consumer = failing(error)
    with capture_logs() as said:
        await reader._read()
    assert [one["event"] for one in said] == ["replies cannot be read"]
    with pytest.raises(Refusal, match=f"{type(error).__name__}.: submit again") as caught:
        await future
    assert caught.value.code is FailureCode.INTERNAL_ERROR


async def test_who_comes_when_nobody_reads_any_more_is_told_so_at_once() -> None:
    reader = ReplyReader(Cluster("localhost:1"), "gw.a.b.out.v1")
    await reader._consumer.stop()
    reader._consumer = failing(ValueError())
    reader._reading = asyncio.create_task(reader._read())
    await reader._reading
    with pytest.raises(Refusal, match=r"ValueError.: submit again"):
        reader.expect(b"1", None)
