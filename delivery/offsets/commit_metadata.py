"""The text form of a commit's metadata: which offsets above the committed one are finished, and which owners died.

The text is `2:CRC32:BASE64`. The body consists of integers of variable length, seven bits a byte:

1. twice the number of deaths, plus one while work is under way;
2. how far the suspicion reaches (`CrashHistory.until`), as a distance from the committed offset;
3. the lengths of runs from the committed offset on, in pairs: unfinished, finished;
4. the tokens of who is at work and of who died, each as a run of which nothing is finished. Older programs pass these
   over.

The size is bounded by the number of unfinished offsets below the last finished one, whatever window they span. Version
1 had only the runs.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Collection, Iterator

from guideway.delivery.offsets.crash_history import NONE, CrashHistory, unnamed

_VERSION = "2"
MOST_FINISHED = 10_000_000
"""How many finished offsets are read from one commit. Anybody with rights to the group can write such lengths, and each
offset takes memory. No real window between an unfinished record and the newest one is this long."""
_MOST_DEATHS = 1000


class UnreadableCommitMetadata(ValueError):
    """This program did not write the metadata of a committed offset. To begin there without it would repeat results."""


def encode(low: int, done: Collection[int], crashes: CrashHistory = NONE) -> str:
    """The metadata of a commit at `low`; empty where there is nothing to say. All of `done` must be ≥ `low`."""
    if not done and crashes == NONE:
        return ""
    lengths = [2 * crashes.deaths + crashes.begun, max(0, crashes.until - low)]
    at, inside = low, False
    for offset in sorted(done):
        if offset != at or not inside:
            lengths.append(offset - at)
            lengths.append(0)
        lengths[-1] += 1
        at, inside = offset + 1, True
    for token in (*([crashes.owner] if crashes.begun else []), *crashes.dead):
        lengths += [token, 0]
    body = bytearray()
    for length in lengths:
        rest = length
        while rest > 0x7F:
            body.append(0x80 | rest & 0x7F)
            rest >>= 7
        body.append(rest)
    return f"{_VERSION}:{zlib.crc32(body):08x}:{base64.b64encode(body).decode()}"


def decode(low: int, metadata: str | None) -> tuple[frozenset[int], CrashHistory]:
    """The (done, crashes) that `encode` was given, of a commit at `low`. Raises UnreadableCommitMetadata."""
    if not metadata:
        return frozenset(), NONE
    version, _, rest = metadata.partition(":")
    checksum, _, text = rest.partition(":")
    try:
        body = base64.b64decode(text, validate=True)
        intact = version in {"1", _VERSION} and int(checksum, 16) == zlib.crc32(body)
    except (binascii.Error, ValueError):
        intact = False
    if not intact:
        raise UnreadableCommitMetadata(
            f"commit metadata {metadata[:20]!r}… is not of this program's version {_VERSION}"
        )
    lengths = list(_integers(body))
    head = 0 if version == "1" else 2
    deaths, reach = lengths[:2] if version != "1" and len(lengths) >= 2 else (0, 0)
    runs = lengths[head:]
    if len(lengths) < head or len(runs) % 2 or deaths > _MOST_DEATHS or sum(runs[1::2]) > MOST_FINISHED:
        raise UnreadableCommitMetadata(f"commit metadata {metadata[:20]!r}… has lengths that no program writes")
    done: set[int] = set()
    tokens: list[int] = []
    at = low
    for skipped, finished in zip(runs[::2], runs[1::2], strict=True):
        if not finished:
            tokens.append(skipped)
            continue
        at += skipped
        done.update(range(at, at + finished))
        at += finished
    begun = bool(deaths % 2)
    if len(tokens) != deaths // 2 + begun:
        # Written by a program that knew no tokens.
        tokens = [0] * begun + list(unnamed(deaths // 2))
    owner = tokens.pop(0) if begun else 0
    return frozenset(done), CrashHistory(tuple(tokens), low + reach if reach else 0, begun, owner)


def _integers(body: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in body:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield value
            value = shift = 0
