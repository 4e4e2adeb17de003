"""Decompresses a fetched batch, and takes the value out of each record that is too large to be read. Pure.

6 kB can hold a record of 62 MB, or one with millions of headers. So records are measured as bytes before any object is
made of them. Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from guideway.delivery.guards import bounded_codecs
from guideway.delivery.guards.bounded_codecs import UnreadableBatch
from guideway.delivery.settings import MAX_HEADERS, MAX_READ_BYTES
from guideway.schemas.names import header

_HEADER_BYTES: Final = 61
_LENGTH_AT, _ATTRIBUTES_AT, _COUNT_AT = 8, 21, 57
_CODEC_BITS: Final = 0x07
_LEAST_RECORD_BYTES: Final = 7
_LOOKED_AT_BYTES: Final = 2**18
"""A record up to this size is not measured further: whatever it holds, it becomes some megabytes at most."""
_HEADERS_LOOKED_AT: Final = 4 * MAX_HEADERS
"""Of a record with too many: each costs a microsecond, and a batch may hold hundreds of such records."""
_ANSWERED_BY_BYTES: Final = 2**16
"""Of a record with too many: so many bytes of them are kept."""
_ANSWERED_BY: Final = frozenset(name.encode() for name in header.ANSWERED_BY)
_LONGEST_NAME: Final = max(map(len, _ANSWERED_BY))
_DECODERS: Final[dict[int, Callable[[Any], Any]]] = {
    1: bounded_codecs.gzip_decode,
    2: bounded_codecs.snappy_decode,
    3: bounded_codecs.lz4_decode,
    4: bounded_codecs.zstd_decode,
}


class OpenBatch(msgspec.Struct, frozen=True):
    """A batch that is not compressed."""

    data: bytes
    """Header and records, as on the wire."""
    withheld: dict[int, int]
    """Records that came without their value: number in the batch → bytes that it had."""


def opened(batch: bytes, inflated_bytes: int = bounded_codecs.LIMIT_BYTES) -> OpenBatch:
    """A batch of format 2, which may be compressed. Raises UnreadableBatch.

    inflated_bytes: what a compressed one may hold; never more than `bounded_codecs.LIMIT_BYTES`.
    """
    (attributes,) = struct.unpack_from(">h", batch, _ATTRIBUTES_AT)
    (count,) = struct.unpack_from(">i", batch, _COUNT_AT)
    codec = attributes & _CODEC_BITS
    if not codec and len(batch) <= _LOOKED_AT_BYTES:
        return OpenBatch(batch, {})
    records: Any = memoryview(batch)[_HEADER_BYTES:]
    if codec:
        if codec not in _DECODERS:
            raise UnreadableBatch
        records = _DECODERS[codec](records)
        if len(records) > inflated_bytes:
            raise UnreadableBatch
    records, withheld = _without_oversized(memoryview(records), count)
    head = bytearray(batch[:_HEADER_BYTES])
    struct.pack_into(">h", head, _ATTRIBUTES_AT, attributes & ~_CODEC_BITS)
    struct.pack_into(">i", head, _LENGTH_AT, _HEADER_BYTES - _LENGTH_AT - 4 + len(records))
    return OpenBatch(b"".join((head, records)), withheld)


def _without_oversized(records: memoryview, count: int) -> tuple[Any, dict[int, int]]:
    """(the records, of which too large ones have no value; number in the batch → bytes, of these)."""
    kept: list[Any] = []
    withheld: dict[int, int] = {}
    at = copied = number = 0
    try:
        # As long as there is room for a large one: what is left may be small records only.
        while number < count and len(records) - at - _LEAST_RECORD_BYTES * (count - number - 1) > _LOOKED_AT_BYTES:
            size, start = _integer(records, at)
            end = start + size
            if size <= 0 or end > len(records):
                raise UnreadableBatch
            if size > _LOOKED_AT_BYTES and (small := _in_its_place(records[start:end])) is not None:
                kept += [records[copied:at], _encoded(len(small)), small]
                withheld[number] = size
                copied = end
            at, number = end, number + 1
    except IndexError:
        raise UnreadableBatch from None
    return (b"".join([*kept, records[copied:]]), withheld) if withheld else (records, withheld)


def _in_its_place(record: memoryview) -> bytes | None:
    """What stands in place of a record that is too large, or has too many headers: the same with a null value.

    Key and headers stay, for the caller is answered by them; where they are what is too large, the key goes, and of the
    headers those stay by which an answer finds its way. None: the record may be read as it is.
    """
    at = 1
    for _ in ("timestamp", "offset"):
        _, at = _integer(record, at)
    numbers = record[:at]
    size, start = _integer(record, at)
    at = start + max(0, size)
    key = record[start:at]
    size, start = _integer(record, at)
    headers = record[start + max(0, size) :]
    if not headers:
        raise UnreadableBatch
    count, _ = _integer(headers, 0)
    if len(record) <= MAX_READ_BYTES and count <= MAX_HEADERS:
        return None
    null = _encoded(-1)
    return b"".join(
        (
            numbers,
            *((_encoded(len(key)), key) if 0 < len(key) <= MAX_READ_BYTES else (null,)),
            null,
            headers if count <= MAX_HEADERS and len(headers) <= MAX_READ_BYTES else _answering(headers),
        )
    )


def _answering(headers: memoryview) -> bytes:
    """Of too many headers those of `header.ANSWERED_BY`, as far as they are among the first and are small."""
    count, at = _integer(headers, 0)
    kept: list[bytes] = []
    room = _ANSWERED_BY_BYTES
    for _ in range(min(count, _HEADERS_LOOKED_AT)):
        size, start = _integer(headers, begin := at)
        name_ends = start + max(0, size)
        value_size, value_starts = _integer(headers, name_ends)
        at = value_starts + max(0, value_size)
        if at > len(headers):
            raise IndexError
        if at - begin <= room and size <= _LONGEST_NAME and bytes(headers[start:name_ends]) in _ANSWERED_BY:
            kept.append(bytes(headers[begin:at]))
            room -= at - begin
    return _encoded(len(kept)) + b"".join(kept)


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    """A zigzag-encoded integer of variable length, and where it ends. Raises IndexError."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte >> 1 if not byte & 1 else -(byte >> 1) - 1, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise IndexError


def _encoded(value: int) -> bytes:
    rest = value << 1 ^ value >> 63
    found = bytearray()
    while rest > 0x7F:
        found.append(0x80 | rest & 0x7F)
        rest >>= 7
    found.append(rest)
    return bytes(found)
