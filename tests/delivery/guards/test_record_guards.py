"""Records with header names that are not UTF-8 are read, and all others as before."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from guideway.delivery.guards import aiokafka_guards

HEADER = 61
ATTRIBUTES = 21
GZIP = 1


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


def batch(
    first_offset: int, names: list[str], *, codec: int = 0, encode: Callable[[bytes], bytes] = gzip.compress
) -> bytes:
    """A batch with a record for each name, in which `~` stands for a byte that UTF-8 does not have."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 16,
    )
    for delta, name in enumerate(names):
        builder.append(delta, timestamp=1, key=b"k", value=b"v", headers=[(name, b"1"), ("n", None)])
    data = bytearray(builder.build().replace(b"~", b"\xff"))
    if codec:
        data[HEADER:] = encode(bytes(data[HEADER:]))
        data[ATTRIBUTES : ATTRIBUTES + 2] = struct.pack(">h", codec)
    struct.pack_into(">qi", data, 0, first_offset, len(data) - 12)
    return bytes(data)


def read(data: bytes) -> list[tuple[int, list[tuple[str, bytes | None]]]]:
    records = fetcher.MemoryRecords(data)
    found = []
    while records.has_next():
        one = records.next_batch()
        assert one.next_offset > one.base_offset
        found += [(record.offset, list(record.headers)) for record in one]
    return found


@pytest.mark.parametrize("codec", [0, GZIP])
def test_bad_names_are_read_with_replacements_and_the_rest_as_it_is(codec: int) -> None:
    data = batch(10, ["a", "~b", "schön", "c~~"], codec=codec) + batch(14, ["d"])
    names = ["a", "\ufffdb", "schön", "c\ufffd\ufffd", "d"]
    assert read(data) == [(10 + i, [(name, b"1"), ("n", None)]) for i, name in enumerate(names)]


def test_a_cut_off_batch_is_left_for_the_next_fetch() -> None:
    whole = batch(0, ["a"])
    records = fetcher.MemoryRecords(whole[:-1])
    assert not records.has_next()
    assert records.size_in_bytes() == len(whole) - 1
    assert [offset for offset, _ in read(whole + whole[:-1])] == [0]
