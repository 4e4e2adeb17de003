"""A batch is looked at as bytes before anything is made of it: what is too large is cut out, the rest is as it was."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition
from tests.delivery.guards.test_bounded_codecs import CODECS

from guideway.delivery.guards import aiokafka_guards, record_guards
from guideway.delivery.guards.bounded_codecs import LIMIT_BYTES, UnreadableBatch
from guideway.delivery.guards.open_batches import opened
from guideway.delivery.settings import MAX_HEADERS, MAX_READ_BYTES
from guideway.schemas.record import Withheld

Given = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
HUGE = bytes(MAX_READ_BYTES)
CORRELATION: list[tuple[str, bytes | None]] = [("correlation_id", b"17"), ("reply_to", b"gw.a.b.out.v1")]


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


def batch(records: list[Given], first: int = 0, codec: str | None = "zstd") -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for delta, (key, value, headers) in enumerate(records):
        builder.append(delta, timestamp=1_700_000_000_000 + delta, key=key, value=value, headers=headers)
    data = bytearray(builder.build())
    if codec is not None:
        number, encode = CODECS[codec]
        data[61:] = encode(bytes(data[61:]))
        data[21:23] = number.to_bytes(2, "big")
    data[:12] = first.to_bytes(8, "big") + (len(data) - 12).to_bytes(4, "big")
    return bytes(data)


def read(data: bytes) -> Iterator[Any]:
    records = fetcher.MemoryRecords(data)
    while records.has_next():
        yield from records.next_batch()


SMALL: list[Given] = [(b"k", b"v", [("n", None)]), (None, None, []), (b"", b"", CORRELATION)]


@pytest.mark.parametrize("codec", [*CODECS, None])
def test_a_record_that_is_too_large_has_no_value_and_its_neighbours_are_as_they_were(codec: str | None) -> None:
    given = [SMALL[0], (b"key", HUGE, CORRELATION), *SMALL[1:]]
    found = list(read(batch(given, 10, codec)))
    assert [record.offset for record in found] == [10, 11, 12, 13]
    assert [record.timestamp for record in found] == [1_700_000_000_000 + delta for delta in range(4)]
    assert isinstance(found[1].value, Withheld)
    assert found[1].value.record_bytes > MAX_READ_BYTES
    assert (found[1].key, list(found[1].headers)) == (b"key", CORRELATION), "its caller can be answered"
    others = [found[0], *found[2:]]
    assert [(one.key, one.value, list(one.headers)) for one in others] == [(k, v, list(h)) for k, v, h in SMALL]


@pytest.mark.parametrize(
    ("record", "is_read"),
    [
        pytest.param((b"k", bytes(MAX_READ_BYTES - 1000), CORRELATION), True, id="as large as our topics take"),
        pytest.param((None, b"v", [("h", bytes(1_000_000)), *CORRELATION]), True, id="many bytes of headers"),
        pytest.param((None, b"v" * 300_000, [("h", b"")] * MAX_HEADERS), True, id="many headers"),
        pytest.param((None, b"v" * 300_000, [("h", b"")] * (MAX_HEADERS + 1)), False, id="too many"),
        pytest.param((None, b"", [("", b"")] * 200_000), False, id="headers that would take 20 MB"),
        pytest.param((bytes(300_000), b"", []), True, id="a large key"),
        pytest.param((bytes(100_000), bytes(100_000), []), True, id="too small to be looked at"),
    ],
)
def test_where_too_large_begins(record: Given, is_read: bool) -> None:
    (found,) = read(batch([record]))
    assert isinstance(found.value, Withheld) is not is_read
    if is_read:
        assert (found.key, found.value, list(found.headers)) == (record[0], record[1], record[2])


@pytest.mark.parametrize("at", [0, 700, 1500])
def test_of_too_many_headers_those_stay_by_which_the_caller_is_answered(at: int) -> None:
    others: list[tuple[str, bytes | None]] = [(f"h{number}", b"y" * 500) for number in range(1500)]
    (found,) = read(batch([(b"k", b"x", [*others[:at], *CORRELATION, *others[at:]])]))
    assert isinstance(found.value, Withheld)
    assert (found.key, list(found.headers)) == (b"k", CORRELATION)
    (found,) = read(batch([(None, b"x", [("correlation_id", bytes(70_000)), ("request_id", b"17"), *others])]))
    assert list(found.headers) == [("request_id", b"17")]
    endless: list[tuple[str, bytes | None]] = [("", b"")] * 200_000
    (found,) = read(batch([(None, b"x", [*endless, *CORRELATION])]))
    assert list(found.headers) == []


def test_a_large_batch_of_small_records_is_read_whole() -> None:
    given: list[Given] = [(None, bytes([i % 251]) * (i % 3000), []) for i in range(3000)]
    assert [(one.offset, one.value) for one in read(batch(given))] == [
        (i, value) for i, (_, value, _) in enumerate(given)
    ]


@pytest.mark.parametrize("damage", [b"\xff" * 9, b"\x00", b"\x01", b"\xfe\xff\xff\xff\x0f"])
def test_lengths_that_are_none_are_no_batch(damage: bytes) -> None:
    data = bytearray(batch([(None, HUGE, [])], codec=None))
    data[61 : 61 + len(damage)] = damage
    with pytest.raises(UnreadableBatch):
        opened(bytes(data))
    (found,) = read(bytes(data))
    assert (found.offset, found.value) == (0, None), "read as one record that nobody can decode"


# Memory --------------------------------------------------------------------------------------------------------------

TP = TopicPartition("t", 0)


def reader(data: bytes, tp: TopicPartition) -> FetchResult:
    state = SimpleNamespace(paused=False, position=0)
    state.consumed_to = lambda offset: setattr(state, "position", offset)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    records = PartitionRecords(tp, fetcher.MemoryRecords(data), [], 0, None, None, False, 1)
    return FetchResult(tp, assignment=assignment, partition_records=records, backoff=0)


def consumer_of(fetched: dict[TopicPartition, bytes]) -> Any:
    """As much of a Fetcher as `fetched_records` uses, with these batches fetched."""
    return SimpleNamespace(
        _subscriptions=SimpleNamespace(reassignment_in_progress=False, is_assigned=lambda _: True),
        _records={tp: reader(data, tp) for tp, data in fetched.items()},
        _notify=lambda _: None,
        _wait_consume_future=None,
    )


async def test_the_batches_of_a_topic_may_hold_as_much_as_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_guards, "_inflated_bytes", lambda topic: 2000 if topic == "small" else LIMIT_BYTES)
    data = batch([(b"k", bytes(3000), []), (b"k", b"v", [])])
    fetched = {TopicPartition(topic, 0): data for topic in ("small", "large")}
    found = await Fetcher.fetched_records(consumer_of(fetched), [], 0)
    values = {tp.topic: [one.value for one in records] for tp, records in found.items()}
    assert values == {"small": [None], "large": [bytes(3000), b"v"]}
    with pytest.raises(UnreadableBatch):
        opened(data, 3000)
    assert not opened(data, 3100).withheld


def test_one_call_takes_out_so_much_and_the_next_ones_the_rest() -> None:
    megabyte: list[Given] = [(None, bytes(10**6), [])]
    consumer = consumer_of({TopicPartition("t", n): b"".join(batch(megabyte, i) for i in range(20)) for n in range(3)})
    taken: list[int] = []
    offsets: dict[TopicPartition, list[int]] = {}
    while len(taken) < 100:
        found = asyncio.run(Fetcher.fetched_records(consumer, []))
        if not found:
            break
        taken.append(sum(len(one.value) for records in found.values() for one in records))
        for tp, records in found.items():
            offsets.setdefault(tp, []).extend(one.offset for one in records)
    assert max(taken) <= record_guards.CALL_BYTES + 10**6
    assert offsets == {TopicPartition("t", n): list(range(20)) for n in range(3)}, "each once, in order"


def test_batches_read_in_part_take_so_much_memory_however_many_they_are() -> None:
    """Of twenty partitions one record each is wanted: as many batches of 60 MB stand half read."""
    large = batch([(None, bytes(10**6), [])] * 60)
    assert len(large) < 20_000
    consumer = consumer_of({TopicPartition("t", n): large for n in range(20)})
    tracemalloc.start()
    try:
        for _ in range(2):
            for tp in list(consumer._records):
                ((record,),) = asyncio.run(Fetcher.fetched_records(consumer, [tp], max_records=1)).values()
                assert len(record.value) == 10**6
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < record_guards.OPEN_BYTES + LIMIT_BYTES
    assert peak < record_guards.OPEN_BYTES + 3 * LIMIT_BYTES
    (rest,) = asyncio.run(Fetcher.fetched_records(consumer, [TopicPartition("t", 0)])).values()
    assert rest[0].offset == 2, "a batch that was closed goes on where it was"
