"""Compressed batches are read, up to a limit."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from tests.delivery.guards.test_record_guards import batch, read

from guideway.delivery.guards import aiokafka_guards, bounded_codecs
from guideway.delivery.guards.bounded_codecs import LIMIT_BYTES, UnreadableBatch
from guideway.delivery.settings import MAX_READ_BYTES
from guideway.schemas.record import Withheld

Encode = Callable[[bytes], bytes]
CODECS: dict[str, tuple[int, Encode]] = {
    "gzip": (1, gzip.compress),
    "snappy": (2, codec.snappy_encode),
    "snappy, plain": (2, lambda data: codec.snappy_encode(data, xerial_compatible=False)),
    "lz4": (3, codec.lz4_encode),
    "zstd": (4, codec.zstd_encode),
}
BEYOND = bytes(LIMIT_BYTES + 1)


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


@pytest.mark.parametrize("name", CODECS)
def test_a_compressed_batch_is_read(name: str) -> None:
    number, encode = CODECS[name]
    found = read(batch(10, ["a", "b"], codec=number, encode=encode))
    assert [offset for offset, _ in found] == [10, 11]


@pytest.mark.parametrize("name", CODECS)
def test_a_batch_that_inflates_beyond_the_limit_is_one_record_at_its_last_offset(name: str) -> None:
    number, encode = CODECS[name]
    bomb = batch(10, ["a", "b", "c"], codec=number, encode=lambda _: encode(BEYOND))
    assert read(bomb + batch(13, ["d"])) == [(12, []), (13, [("d", b"1"), ("n", None)])]


@pytest.mark.parametrize("name", CODECS)
def test_what_is_no_compressed_data_is_one_record_too(name: str) -> None:
    number, _ = CODECS[name]
    assert read(batch(10, ["a", "b"], codec=number, encode=lambda _: b"\xff" * 40)) == [(11, [])]


def test_what_is_as_large_as_the_limit_is_taken_out() -> None:
    data = bytes(LIMIT_BYTES)
    assert bounded_codecs.zstd_decode(bytes(cramjam.zstd.compress(data))) == data
    assert bounded_codecs.gzip_decode(gzip.compress(data)) == data


def test_gzip_in_several_members_is_one_text() -> None:
    assert bounded_codecs.gzip_decode(gzip.compress(b"a") + gzip.compress(b"b")) == b"ab"


def test_a_gzip_that_is_cut_off_is_refused() -> None:
    with pytest.raises(UnreadableBatch):
        bounded_codecs.gzip_decode(gzip.compress(b"a" * 1000)[:-1])


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4"])
def test_batches_of_older_formats_are_bounded_too(name: str) -> None:
    number, encode = CODECS[name]
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1 << 16)
    builder.append(0, timestamp=5, key=b"k", value=encode(BEYOND))
    data = bytearray(builder.build())
    data[17] = number
    records = fetcher.MemoryRecords(bytes(data) + batch(1, ["d"]))
    found = [
        (record.offset, record.key, record.value)
        for one in (records.next_batch(), records.next_batch())
        for record in one
    ]
    assert found == [(0, None, None), (1, b"k", b"v")]


def test_a_large_record_of_an_older_format_has_no_value() -> None:
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1 << 30)
    builder.append(0, timestamp=5, key=b"k", value=bytes(MAX_READ_BYTES + 1))
    (record,) = fetcher.MemoryRecords(bytes(builder.build())).next_batch()
    assert (record.key, isinstance(record.value, Withheld)) == (b"k", True)


def test_a_gzip_of_thousands_of_members_is_refused() -> None:
    with pytest.raises(UnreadableBatch):
        bounded_codecs.gzip_decode(gzip.compress(b"") * 5_000)
