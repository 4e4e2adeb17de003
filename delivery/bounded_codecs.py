"""Guards over aiokafka 0.14.0: compressed batches are taken out up to a limit, and one that cannot be becomes a record.

A mebibyte of zstd can hold 32 GiB: unguarded, whoever may write to a topic ends every process that reads it, again
after each restart. And unguarded, a batch that cannot be decompressed at all stops its partition for ever. Such a batch
is read as one record, without key and value, at its last offset: it is then refused like anything undecodable.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam
from aiokafka import codec
from aiokafka.record import default_records
from aiokafka.record._crecords import default_records as compiled_default_records

LIMIT_BYTES: Final = 64 * 2**20
_SIZES: Final = (2**20, 8 * 2**20, LIMIT_BYTES)
"""Of the buffer that is tried: to clear a large one for every small batch would cost more than taking it out."""
_XERIAL_HEADER_BYTES: Final = 16


class UnreadableBatch(Exception):
    """It inflates beyond the limit, or is no compressed data."""


def gzip_decode(payload: Any) -> bytes:
    found, rest = b"", bytes(payload)
    while rest:
        member = zlib.decompressobj(wbits=31)
        found += member.decompress(rest, LIMIT_BYTES + 1 - len(found))
        if not member.eof or len(found) > LIMIT_BYTES:
            raise UnreadableBatch
        rest = member.unused_data
    return found


def snappy_decode(payload: Any) -> bytes:
    data = memoryview(payload)
    blocks = [data]
    if codec._detect_xerial_stream(payload):
        blocks, at = [], _XERIAL_HEADER_BYTES
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            blocks.append(data[at + 4 : at + 4 + size])
            at += 4 + size
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > LIMIT_BYTES:
        raise UnreadableBatch
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def lz4_decode(payload: Any) -> bytes:
    return _grown(cramjam.lz4.decompress_into, payload)


def zstd_decode(payload: Any) -> bytes:
    return _grown(cramjam.zstd.decompress_into, payload)


def _grown(decompress_into: Callable[[Any, bytearray], int], payload: Any) -> bytes:
    for size in _SIZES:
        found = bytearray(size)
        try:
            return bytes(memoryview(found)[: decompress_into(payload, found)])
        except cramjam.DecompressionError:
            if size == LIMIT_BYTES:
                raise
    raise AssertionError


def _coded(decode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def decode_or_say(payload: Any) -> bytes:
        try:
            return decode(payload)
        except (zlib.error, cramjam.DecompressionError, ValueError, OverflowError) as error:
            raise UnreadableBatch from error

    return decode_or_say


def install() -> None:
    """Put the guards in place; harmless when repeated. `aiokafka_guards.install` checks the version."""
    for decode in (gzip_decode, snappy_decode, lz4_decode, zstd_decode):
        for module in (default_records, compiled_default_records):
            setattr(module, decode.__name__, _coded(decode))
