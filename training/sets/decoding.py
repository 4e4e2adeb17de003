"""Files → text, by their declared encoding. A guess could put wrong letters into facts without a sign."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from guideway.schemas.failures import FailureCode, Refusal

MAX_FILE_BYTES: Final = 256 * 2**20
"""The largest file that is read whole."""
MAX_LINE_BYTES: Final = 8 * 2**20
"""The longest row."""
_LOOKED_AT: Final = 65_536
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark begins with the same bytes.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED: Final = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})|\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})",
    re.IGNORECASE,
)
_OTHER_FILES: Final = (
    (b"%PDF-", "a PDF", "name it .pdf"),
    (b"PK\x03\x04", "a ZIP archive, as .docx, .xlsx and .epub are", "save it as text or PDF, or unpack it"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it"),
    (b"\xd0\xcf\x11\xe0", "a document of an old Office program", "save it as text or PDF"),
    (b"{\\rtf", "RTF", "save it as text or PDF"),
    (b"\x89PNG", "a picture", "leave it out"),
    (b"\xff\xd8\xff", "a picture", "leave it out"),
    (b"GIF8", "a picture", "leave it out"),
)
"""The first bytes of files that hold no text, whatever their names."""
_TOO_LONG: Final = "\ud800"
"""Stands for a line that is too long; no encoding gives it."""
_LONG: Final = f"it has more than {MAX_LINE_BYTES // 2**20} MiB: split its text over rows"
_LATIN: Final = frozenset({"ascii", "iso8859-1"})
"""Browsers read these as Windows-1252, and people write them so."""


def known_encoding(name: str) -> str:
    """The codec's own name; Windows-1252 for Latin-1. Raises Refusal(invalid_setting) if it is no text encoding's."""
    try:
        "".encode(name)
        codec = codecs.lookup(name).name
        return "cp1252" if codec == "iso8859-1" else codec
    except (LookupError, ValueError):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{name!r} is no text encoding: write one such as utf-8, cp1252 or shift_jis"
        ) from None


_only: Path | None = None


def read_only_within(folder: Path | None) -> None:
    """From now on this process opens plain files in this folder only; None: any file.

    Whoever may write there may put a link in the place of a file after its path was looked at, or a pipe, which would
    be waited for without end.
    """
    global _only  # noqa: PLW0603  the process of a job is of one namespace
    _only = folder


def _opened(file: Path) -> BinaryIO:
    """The file, to be closed. Raises OSError."""
    if _only is None:
        return file.open("rb")
    stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        # What was opened, whatever stands under its name now.
        there = Path(f"/proc/self/fd/{stream.fileno()}")
        if not (there if there.exists() else file).resolve().is_relative_to(_only.resolve()):
            raise OSError(errno.EACCES, f"it does not lie in {_only}")
    except BaseException:
        stream.close()
        raise
    return stream


def whole_bytes(file: Path, name: str) -> bytes:
    """The bytes of a file. Raises Refusal(document_too_large | document_unreadable)."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise Refusal(
                FailureCode.DOCUMENT_TOO_LARGE,
                f"{name} has more than {MAX_FILE_BYTES // 2**20} MiB: split it, or make it JSONL",
            )
        with _opened(file) as stream:
            return stream.read()
    except OSError as error:
        raise _cannot_be_read(name, error) from None


def whole_text(file: Path, name: str, encoding: str) -> str:
    """The text of a file. Raises Refusal(document_too_large | document_unreadable)."""
    data = whole_bytes(file, name)
    _check_kind(data, name)
    text = decoded(data, name, _marked(data) or encoding)
    # Programs of old Macintoshes end lines by CR, and Excel can still do so.
    return text if "\n" in text else text.replace("\r", "\n")


def page_text(data: bytes, name: str, encoding: str) -> str:
    """The text of an HTML page, which may declare its encoding. Raises Refusal(document_unreadable)."""
    if (marked := _marked(data)) is not None:
        return decoded(data, name, marked)
    declared = _DECLARED.search(data[:4096])
    if declared is None:
        return decoded(data, name, encoding)
    said = (declared[1] or declared[2]).decode("ascii")
    try:
        codec = codecs.lookup(said).name
    except LookupError:
        raise unreadable(f"{name} declares the encoding {said!r}, which is unknown: convert it to UTF-8") from None
    if not codec.startswith(("iso2022", "hz")):
        # Many pages in UTF-8 still declare an older encoding. Text of another encoding is hardly ever valid UTF-8.
        try:
            return decoded(data, name, "utf-8")
        except Refusal:
            pass
    try:
        return decoded(data, name, "cp1252" if codec in _LATIN else codec)
    except Refusal:
        if encoding in ("utf-8", codec):
            raise
        # It declares what it is not, and somebody says what it is.
        return decoded(data, name, encoding)


def read_lines(file: Path, name: str, encoding: str) -> Iterator[str]:
    """The lines of a file, with their ends, one at a time.

    What cannot be read in a line is its own fault, which `broken_at` tells, and no refusal of the file.
    Raises Refusal(document_too_large | document_unreadable).
    """
    try:
        with _opened(file) as stream:
            begin = stream.read(_LOOKED_AT)
            _check_kind(begin, name)
            marked = _marked(begin) or encoding
            stream.seek(0)
            if marked.startswith(("utf-16", "utf-32")) or (b"\r" in begin and b"\n" not in begin):
                yield from re.findall(r"[^\n]*\n|[^\n]+", whole_text(file, name, encoding))
                return
            while line := stream.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE_BYTES)):
                        pass
                    yield f"{_TOO_LONG}\n"
                else:
                    yield line.decode(marked, "surrogateescape")
                # Further on the mark would be a character.
                marked = "utf-8" if marked == "utf-8-sig" else marked
    except OSError as error:
        raise _cannot_be_read(name, error) from None


def broken_at(text: str) -> str:
    """The fault of a line of `read_lines`, and what to change; empty if it has none."""
    if text.startswith(_TOO_LONG):
        return _LONG
    for one in text if not text.isascii() else ():
        if "\udc80" <= one <= "\udcff":
            return f"its byte {ord(one) - 0xDC00:#04x} is of another encoding: name the file's with --encoding"
    if "\0" in text:
        return "it holds zero bytes: it is no text, or UTF-16 without its mark"
    return ""


def refused_line(where: str, why: str) -> Refusal:
    """The refusal of a line. why: as `broken_at` tells it, or what else is wrong."""
    code = FailureCode.DOCUMENT_TOO_LARGE if why is _LONG else FailureCode.DOCUMENT_UNREADABLE
    return Refusal(code, f"{where}: {why}")


def _check_kind(data: bytes, name: str) -> None:
    for begin, what, advice in _OTHER_FILES:
        if data.startswith(begin):
            raise unreadable(f"{name} is {what}, by how it begins: {advice}")


def decoded(data: bytes, where: str, encoding: str) -> str:
    """The text of these bytes. Raises Refusal(document_unreadable), which names the first wrong byte."""
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        at = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        shown = "UTF-8" if encoding.startswith("utf-8") else encoding
        raise unreadable(f"{where} is not {shown}{at}: name its encoding with --encoding, or convert it") from None
    if "\0" in text:
        raise unreadable(f"{where} holds zero bytes: it is no text, or UTF-16 without its mark; convert it to UTF-8")
    return text


def without_broken_characters(text: str) -> str:
    """The text without zero characters and half surrogate pairs, which some PDF files have."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore").replace("\0", "")


def unreadable(message: str) -> Refusal:
    """A refusal of a file or row that cannot be read."""
    return Refusal(FailureCode.DOCUMENT_UNREADABLE, message)


def _cannot_be_read(name: str, error: OSError) -> Refusal:
    return unreadable(f"{name} cannot be read ({error.strerror}): change its rights, or leave it out")


def _marked(data: bytes) -> str | None:
    """The encoding that the file's first bytes declare; None without a mark."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
