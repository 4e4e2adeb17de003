"""Guards over aiokafka 0.14.0 for records that it cannot read: unguarded, one of them stops a whole group for ever.

A header name that is not UTF-8 is read, with U+FFFD for what is wrong in it. Brokers take any bytes for a name, and
Java's client reads them in this way. A batch that cannot be decompressed (`bounded_codecs.py`) is read as one record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from guideway.delivery import bounded_codecs
from guideway.delivery.bounded_codecs import UnreadableBatch


class _Forgiving(bytearray):
    """Bytes whose slices decode without an error."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Forgiving(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


@dataclass(frozen=True)
class _Unreadable:
    """In place of all records of a batch: its last offset, and nothing in it."""

    offset: int
    timestamp: int
    timestamp_type: int = 0
    key: None = None
    value: None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    checksum: None = None


class _Batch:
    """A batch that is read by aiokafka's extension, and from the first bad name on by its slower Python twin."""

    def __init__(self, data: bytes, plain: Any) -> None:
        self._data = data
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __next__(self) -> Any:
        # For control batches: their records have no headers.
        return next(self._plain)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._plain:
                yield record
                read += 1
        except UnicodeDecodeError:
            twin = _DefaultRecordBatchPy(self._data)
            twin._maybe_uncompress()
            twin._buffer = _Forgiving(twin._buffer)
            yield from islice(twin, read, None)
        except UnreadableBatch:
            yield _Unreadable(self._plain.next_offset - 1, self._plain.first_timestamp)


class ForgivingRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    """The batches of one fetched partition."""

    def next_batch(self, *args: Any) -> Any:
        data = self._next_slice
        batch = super().next_batch(*args)
        # Older formats have no headers.
        return _Batch(bytes(data), batch) if data is not None and data[self.MAGIC_OFFSET] >= 2 else batch


def install() -> None:
    """Put the guard in place; harmless when repeated. `aiokafka_guards.install` checks the version."""
    bounded_codecs.install()
    fetcher.MemoryRecords = ForgivingRecords
