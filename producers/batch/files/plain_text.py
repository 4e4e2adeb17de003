"""A text file → its lines in UTF-8, with bounded memory however long one is."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple

from guideway.producers.batch.files.form import MAX_ROW_BYTES, FileForm
from guideway.producers.batch.files.row import Position
from guideway.producers.batch.files.unpacking import PIECE_BYTES, pieces
from guideway.producers.events.contents import MARKS

_BROKEN: Final = "guideway.batch.broken"
_LOOKED_AT: Final = 64 * 2**10


class Line(NamedTuple):
    """One line of the plain text."""

    number: int
    """From 1 on."""
    text: bytes
    """Without its end; nothing where it is too long."""
    end: int
    """The bytes of plain text up to the end of the line."""
    is_too_long: bool


def lines(source: BinaryIO, form: FileForm, at: Position) -> Iterator[Line]:
    """The lines from `at` on. Bytes that are not of the file's encoding stand in them as bytes that are no UTF-8.

    Raises Refusal(invalid_data), as `pieces`.
    """
    most = form.most_plain_bytes
    begin = next(pieces(source, form.name, most=most), b"")[:_LOOKED_AT]
    mark, encoding = next(((mark, name) for mark, name in MARKS if begin.startswith(mark)), (b"", form.encoding))
    encoding = codecs.lookup(encoding or "utf-8").name
    old_ends = b"\r" in begin and b"\n" not in begin.replace(b"\n\0", b"\n")
    if encoding == "utf-8" and not old_ends:
        plain = pieces(source, form.name, len(mark) + at.offset, most=most)
        return _split(plain, at)
    return _split(_behind(_as_utf8(pieces(source, form.name, len(mark), most=most), encoding, old_ends), at.offset), at)


def broken(text: bytes, form: FileForm) -> str:
    """Why these bytes are no text in UTF-8, and what to do; empty: they are."""
    if b"\0" in text:
        what = form.advice("Name the file's encoding with --encoding, such as utf-16-le", "Save the file in UTF-8")
        return f"it holds zero bytes: is it UTF-16? {what}"
    try:
        text.decode()
    except UnicodeDecodeError as error:
        byte = text[error.start]
        what = form.advice("name that with --encoding, such as cp1252, or save the file in UTF-8", "save it in UTF-8")
        return f"its byte {error.start + 1} ({byte:#04x}) is not of the file's encoding: {what}"
    return ""


def _split(plain: Iterable[bytes], at: Position) -> Iterator[Line]:
    number, end, rest, is_too_long, passed = at.line, at.offset, b"", False, 0
    for piece in plain:
        first, *others = piece.split(b"\n")
        if not others:
            # Joined for each piece, a long line would take a square of time; at most a few dozen fit.
            rest, passed = rest + first, passed + len(first)
            if len(rest) > MAX_ROW_BYTES:
                rest, is_too_long = b"", True
            elif is_too_long:
                rest = b""
            continue
        for one in (rest + first, *others[:-1]):
            number += 1
            end += (passed + len(first) if passed else len(one)) + 1
            too_long = is_too_long or len(one) > MAX_ROW_BYTES
            yield Line(number, b"" if too_long else one.removesuffix(b"\r"), end, too_long)
            is_too_long, passed = False, 0
        rest, passed = others[-1], len(others[-1])
    if passed:
        too_long = is_too_long or len(rest) > MAX_ROW_BYTES
        yield Line(number + 1, b"" if too_long else rest.removesuffix(b"\r"), end + passed, too_long)


def _as_utf8(raw: Iterable[bytes], encoding: str, old_ends: bool) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors=_BROKEN)

    def encoded(text: str) -> bytes:
        return (text.replace("\r", "\n") if old_ends else text).encode("utf-8", "surrogateescape")

    for piece in raw:
        yield encoded(decoder.decode(piece))
    yield encoded(decoder.decode(b"", final=True))


def _behind(plain: Iterable[bytes], offset: int) -> Iterator[bytes]:
    done = 0
    for piece in plain:
        done += len(piece)
        if done > offset:
            yield piece[max(0, len(piece) - (done - offset)) :]


def _as_broken_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    # It is encoded as the byte 0xff, which is never UTF-8.
    return "\udcff", error.end


codecs.register_error(_BROKEN, _as_broken_byte)
assert PIECE_BYTES < MAX_ROW_BYTES
