"""Finished offsets above the committed one, as text for the commit's metadata: `1:CRC32:BASE64`.

Lengths of runs (unfinished, finished, unfinished, ...) from the committed offset on, as variable-length integers of
seven bits a byte. The size is bounded by the number of unfinished offsets below the last finished one, whatever
window they span.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Collection

_VERSION = "1"


class UnreadableCompletedSet(ValueError):
    """The metadata of a committed offset was not written by this version; replaying silently would repeat results."""


def encode(low: int, done: Collection[int]) -> str:
    """Text for the set; empty for none. All of `done` must be ≥ `low`."""
    if not done:
        return ""
    lengths: list[int] = []
    at, inside = low, False
    for offset in sorted(done):
        if offset != at or not inside:
            lengths.append(offset - at)
            lengths.append(0)
        lengths[-1] += 1
        at, inside = offset + 1, True
    body = bytearray()
    for length in lengths:
        rest = length
        while rest > 0x7F:
            body.append(0x80 | rest & 0x7F)
            rest >>= 7
        body.append(rest)
    return f"{_VERSION}:{zlib.crc32(body):08x}:{base64.b64encode(body).decode()}"


def decode(low: int, metadata: str | None) -> frozenset[int]:
    """The set that `encode` wrote. Raises UnreadableCompletedSet."""
    if not metadata:
        return frozenset()
    version, _, rest = metadata.partition(":")
    checksum, _, text = rest.partition(":")
    try:
        body = base64.b64decode(text, validate=True)
        intact = version == _VERSION and int(checksum, 16) == zlib.crc32(body)
    except (binascii.Error, ValueError):
        intact = False
    if not intact:
        raise UnreadableCompletedSet(f"commit metadata {metadata[:20]!r}… is not of this program's version {_VERSION}")
    lengths: list[int] = []
    value = shift = 0
    for byte in body:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            lengths.append(value)
            value = shift = 0
    done: set[int] = set()
    at = low
    for skipped, finished in zip(lengths[::2], lengths[1::2], strict=True):
        at += skipped
        done.update(range(at, at + finished))
        at += finished
    return frozenset(done)
