"""Decompresses batches up to a limit. A batch that cannot be decompressed becomes a record (`record_guards.py`).

A mebibyte of zstd can hold 32 GiB: unguarded, whoever may write to a topic ends every process that reads it, again
after each restart. And unguarded, a batch that cannot be decompressed at all stops its partition for ever. Such a batch
is read as one record, without key and value, at its last offset: it is then refused like anything undecodable.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam
from aiokafka import codec
from aiokafka.record import legacy_records
from aiokafka.record._crecords import legacy_records as compiled_legacy_records

LIMIT_BYTES: Final = 64 * 2**20
_SIZES: Final = (2**20, 8 * 2**20, LIMIT_BYTES)
"""Sizes of the buffer, tried in turn: clearing a large one for each small batch would cost more than decompressing."""
_XERIAL_HEADER_BYTES: Final = 16
_GZIP_MEMBERS: Final = 64
"""Each member copies what follows it: tens of thousands in one batch would take many seconds."""
_Decode = Callable[[Any], Any]


class UnreadableBatch(Exception):
    """A batch inflates beyond the limit, or is no compressed data."""


def _coded(decode: _Decode) -> _Decode:
    @functools.wraps(decode)
    def decode_or_say(payload: Any) -> Any:
        try:
            return decode(payload)
        except (zlib.error, cramjam.DecompressionError, ValueError, OverflowError) as error:
            raise UnreadableBatch from error

    return decode_or_say


@_coded
def gzip_decode(payload: Any) -> Any:
    members, size, rest = [], 0, bytes(payload)
    while rest:
        member = zlib.decompressobj(wbits=31)
        members.append(member.decompress(rest, LIMIT_BYTES + 1 - size))
        size += len(members[-1])
        if not member.eof or size > LIMIT_BYTES or len(members) > _GZIP_MEMBERS:
            raise UnreadableBatch
        rest = member.unused_data
    return members[0] if len(members) == 1 else b"".join(members)


@_coded
def snappy_decode(payload: Any) -> Any:
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
    found = [memoryview(cramjam.snappy.decompress_raw(block)) for block in blocks]
    return found[0] if len(found) == 1 else b"".join(found)


@_coded
def lz4_decode(payload: Any) -> Any:
    return _grown(cramjam.lz4.decompress_into, payload)


@_coded
def zstd_decode(payload: Any) -> Any:
    return _grown(cramjam.zstd.decompress_into, payload)


def _grown(decompress_into: Callable[[Any, bytearray], int], payload: Any) -> Any:
    for size in _SIZES:
        found = bytearray(size)
        try:
            return memoryview(found)[: decompress_into(payload, found)]
        except cramjam.DecompressionError:
            if size == LIMIT_BYTES:
                raise
    raise AssertionError


def install() -> None:
    """Bound the decoders of the older formats, which aiokafka decompresses itself; harmless when repeated.

    `open_batches.py` uses the decoders for today's. `aiokafka_guards.install` checks the version.
    """

    def as_bytes(decode: _Decode) -> _Decode:
        return lambda payload: bytes(decode(payload))

    for decode in (gzip_decode, snappy_decode, lz4_decode):
        for module in (legacy_records, compiled_legacy_records):
            setattr(module, decode.__name__, as_bytes(decode))
