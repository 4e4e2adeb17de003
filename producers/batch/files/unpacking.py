"""Compressed files → the bytes in them, in pieces of bounded size. How it begins says what a file is, not its name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from guideway.producers.batch.files.opening import Borrowed, is_of_the_store
from guideway.schemas.failures import FailureCode, Refusal

PIECE_BYTES: Final = 256 * 2**10
_XZ_MEMORY_BYTES: Final = 100 * 2**20
"""A file says itself how much memory it needs to be unpacked, up to 4 GiB."""
_OTHERS: Final = (
    (b"PK\x03\x04", "a ZIP archive, as Excel files are", "save it as CSV in UTF-8, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save it as CSV in UTF-8"),
    (b"%PDF-", "a PDF", "write its texts into a CSV or JSONL file"),
    (b"SQLite format 3\0", "an SQLite database", "write its rows into a CSV or JSONL file"),
    (b"ARROW1", "an Arrow file", "write it as Parquet"),
)


def pieces(source: BinaryIO, name: str, at: int = 0, *, most: int) -> Iterator[bytes]:
    """The unpacked bytes from `at` on. name: of the file, for messages.

    Raises Refusal(invalid_data) where it is damaged, ends too early, is larger than `most`, or holds no rows.
    """
    begin = _begin(source)
    for first, what, advice in _OTHERS:
        if begin.startswith(first):
            raise _wrong(f"{name} is {what}: {advice}")
    unpacker = _unpacker(begin)
    if unpacker is None:
        source.seek(at)
        yield from _read(source.read)
        return
    done = 0
    try:
        for piece in unpacker(source):
            done += len(piece)
            if done > most:
                raise _wrong(f"{name} has more than {most / 2**30:g} GiB when it is unpacked: split it")
            if done > at:
                yield piece[max(0, len(piece) - (done - at)) :]
    except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        if is_of_the_store(error):
            raise
        cut = isinstance(error, EOFError) or "runcated" in str(error)
        why = "it ends too early" if cut else str(error)[:100] or type(error).__name__
        raise _wrong(
            f"{name} cannot be unpacked ({why}), after {done} bytes of plain text: it is damaged or was not copied "
            "whole, so make it anew"
        ) from None


def _read(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while piece := read(PIECE_BYTES):
        yield piece


def _begin(source: BinaryIO) -> bytes:
    source.seek(0)
    begin = source.read(16)
    source.seek(0)
    return begin


def _unpacker(begin: bytes) -> Callable[[BinaryIO], Iterator[bytes]] | None:
    for first, unpack in ((b"\x1f\x8b", _gzip), (b"BZh", _bzip2), (b"\xfd7zXZ\0", _xz), (b"\x28\xb5\x2f\xfd", _zstd)):
        if begin.startswith(first):
            return unpack
    return None


def _gzip(source: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=source) as plain:
        yield from _read(plain.read)


def _bzip2(source: BinaryIO) -> Iterator[bytes]:
    return _streams(source, bz2.BZ2Decompressor)


def _xz(source: BinaryIO) -> Iterator[bytes]:
    return _streams(source, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES))


def _streams(source: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    """One or more compressed streams, one after the other. Raises: EOFError; as the module of `make`."""
    rest = b""
    while rest or (rest := source.read(PIECE_BYTES)):
        stream, fed = make(), rest
        while not stream.eof:
            if stream.needs_input and not fed and not (fed := source.read(PIECE_BYTES)):
                raise EOFError
            piece, fed = stream.decompress(fed, PIECE_BYTES), b""
            if piece:
                yield piece
        # Between streams of xz there may be zeros.
        rest = (stream.unused_data or source.read(PIECE_BYTES)).lstrip(b"\0")


def _zstd(source: BinaryIO) -> Iterator[bytes]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
    except ImportError:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "zstd is read with pyarrow, which is not installed: install guideway[batch], or compress with gzip",
        ) from None
    stream = pa.CompressedInputStream(pa.PythonFile(Borrowed(source), mode="r"), "zstd")
    yield from _read(stream.read)


def _wrong(message: str) -> Refusal:
    return Refusal(FailureCode.INVALID_DATA, message)
