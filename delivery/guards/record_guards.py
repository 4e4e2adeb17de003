"""Guards over aiokafka 0.14.0 for what others may write: unguarded, one record stops every process that reads it.

A header name that is not UTF-8 is read, with U+FFFD for what is wrong in it. Brokers take any bytes for a name, and
Java's client reads them in this way. A batch that cannot be decompressed (`bounded_codecs.py`) is read as one record,
and a record that is too large (`open_batches.py`) without its value.

Memory is bounded in three places. A `getmany` ends once it has taken out `CALL_BYTES`, however many records that are,
and whoever reads gets them in several calls. Large batches that are read in part stay open only as far as `OPEN_BYTES`
allow, over all consumers of the process; one that was closed is opened again when more of it is wanted. What is taken
in and not answered is bounded by the pipeline (`budget.py`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from guideway.delivery.guards import bounded_codecs
from guideway.delivery.guards.bounded_codecs import UnreadableBatch
from guideway.delivery.guards.open_batches import opened
from guideway.delivery.settings import MAX_READ_BYTES
from guideway.schemas.record import Withheld, held_bytes

CALL_BYTES: Final = 16 * 2**20
"""Bytes that one `getmany` takes out of batches; the last record, or the last batch, may go beyond."""
OPEN_BYTES: Final = 96 * 2**20
"""Bytes of large batches that are read in part; one may always be open."""
_BREATH_S: Final = 0.01
_LARGE_BYTES: Final = 2**20


class _Forgiving(bytearray):
    """Bytes whose slices decode without an error."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Forgiving(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


@dataclass(frozen=True)
class _Read:
    """A record that aiokafka has not read itself."""

    offset: int
    timestamp: int
    timestamp_type: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    checksum: None = None


@dataclass
class _Call:
    """One `getmany` under way."""

    left: int = CALL_BYTES
    topic: str = ""
    """Of the batch that is read."""


_call: ContextVar[_Call | None] = ContextVar("_call", default=None)


def _as_much_as_all(topic: str) -> int:
    return bounded_codecs.LIMIT_BYTES


_inflated_bytes: Callable[[str], int] = _as_much_as_all


def limit_inflated(inflated_bytes: Callable[[str], int]) -> None:
    """Topic → how many bytes a compressed batch of it may hold, for all consumers of this process from now on.

    A batch that holds more is read as one that cannot be decompressed.
    """
    global _inflated_bytes  # noqa: PLW0603
    _inflated_bytes = inflated_bytes


class _OpenBatches:
    """Large batches that are open, the longest open first."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[_Batch, int] = OrderedDict()

    def hold(self, batch: _Batch, size: int) -> None:
        """Keep this batch open, and close the longest open ones where there is no room for all."""
        self._sizes[batch] = size
        while sum(self._sizes.values()) > OPEN_BYTES and len(self._sizes) > 1:
            closed, _ = self._sizes.popitem(last=False)
            closed.close()

    def release(self, batch: _Batch) -> None:
        self._sizes.pop(batch, None)


_open = _OpenBatches()


class _Batch:
    """A batch of any format, whose records are read in a way that holds whatever they are."""

    def __init__(self, data: bytes, plain: Any, *, has_headers: bool) -> None:
        self._data = data
        self._plain = plain
        self._has_headers = has_headers
        self._records: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __next__(self) -> Any:
        # For control batches: their records have no headers.
        return next(self._plain)

    def close(self) -> None:
        """Let go of what was taken out."""
        self._records = None

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            while True:
                if self._records is None:
                    self._records = self._opened(read)
                record = next(self._records, None)
                if record is None:
                    return
                read += 1
                yield record
        except (UnreadableBatch, CorruptRecordException):
            yield _Read(self._plain.next_offset - 1, getattr(self._plain, "first_timestamp", 0) or 0)
        finally:
            self.close()
            _open.release(self)

    def _opened(self, read: int) -> Iterator[Any]:
        """The records after those that were read. Raises UnreadableBatch."""
        if not self._has_headers:
            return _of_older_format(self._plain, read)
        call = _call.get()
        batch = opened(self._data, _inflated_bytes(call.topic if call is not None else ""))
        if call is not None:
            call.left -= len(batch.data)
        if len(batch.data) > _LARGE_BYTES:
            _open.hold(self, len(batch.data))
        return _from(_forgiving(batch.data), batch.withheld, read)


def _from(records: Iterator[Any], withheld: dict[int, int], first: int) -> Iterator[Any]:
    for number, record in enumerate(records):
        if number < first:
            continue
        yield _without_value(record, withheld[number]) if number in withheld else record


def _forgiving(data: bytes) -> Iterator[Any]:
    """Records by aiokafka's extension, and from the first bad name on by its slower Python twin."""
    read = 0
    try:
        for record in DefaultRecordBatch(data):
            yield record
            read += 1
    except UnicodeDecodeError:
        twin = _DefaultRecordBatchPy(data)
        twin._buffer = _Forgiving(twin._buffer)
        for number, record in enumerate(twin):
            if number >= read:
                yield record


def _of_older_format(plain: Any, first: int) -> Iterator[Any]:
    for number, record in enumerate(plain):
        if number >= first:
            size = len(record.value or b"")
            yield record if size <= MAX_READ_BYTES else _without_value(record, size)


def _without_value(record: Any, size: int) -> _Read:
    return _Read(
        record.offset,
        record.timestamp,
        record.timestamp_type,
        record.key,
        Withheld.of(size),
        tuple(record.headers),
    )


class ForgivingRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    """The batches of one fetched partition."""

    def next_batch(self, *args: Any) -> Any:
        data = self._next_slice
        batch = super().next_batch(*args)
        return None if data is None else _Batch(bytes(data), batch, has_headers=data[self.MAGIC_OFFSET] >= 2)


def _getall(self: Any, max_records: int | None = None) -> list[Any]:
    """As aiokafka's, and no further than the call's bytes allow; one record at least, where any bytes are left."""
    call = _call.get() or _Call()
    if not self.check_assignment(self._topic_partition) or not self.has_more() or call.left <= 0:
        return []
    found: list[Any] = []
    call.topic = self._topic_partition.topic
    for record in self._partition_records:
        found.append(record)
        call.left -= held_bytes(record.key, record.value, record.headers)
        if len(found) == max_records or call.left <= 0:
            self._update_position()
            return found
    self._update_position()
    self._partition_records = None
    return found


_plain_fetched_records = Fetcher.fetched_records


async def _fetched_records(self: Any, *args: Any, **named: Any) -> Any:
    call = _Call()
    before = _call.set(call)
    try:
        return await _plain_fetched_records(self, *args, **named)
    finally:
        _call.reset(before)
        if call.left <= 0:
            # To take out a large batch takes a while: heartbeats, and other work, go between two of them.
            await asyncio.sleep(_BREATH_S)


def install() -> None:
    """Put the guard in place; harmless when repeated. `aiokafka_guards.install` checks the version."""
    bounded_codecs.install()
    fetcher.MemoryRecords = ForgivingRecords
    FetchResult.getall = _getall
    Fetcher.fetched_records = _fetched_records
