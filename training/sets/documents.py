"""Files → documents: text, Markdown, JSONL, CSV, HTML and PDF. What cannot be read is refused, with file and place."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import Metadata
from guideway.training.sets.markup import Unreadable, html_as_markdown, pdf_pages

MAX_FILE_BYTES: Final = 256 * 2**20
"""Of a file that is read whole: everything but JSONL and CSV, which are read row by row."""
MAX_LINE_BYTES: Final = 8 * 2**20
"""Of one row."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What a set is made from."""

    id: str
    text: str
    metadata: Metadata = {}
    markdown: bool = False
    """Whether headings are marked by `#`."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What the fields of JSONL and CSV rows are; all other fields are metadata."""

    text: str = "text"
    id: str = "id"
    """A row without this field is named after its place: FILE:ROW."""


def read_documents(paths: Iterable[Path], columns: Columns) -> Iterator[Document]:
    """Of files, and of folders and their sub-folders, in order of path; a folder's files of other types are left out.

    A document that comes again as it was counts once.
    Raises Refusal(document_unreadable | document_empty | document_too_large | duplicate_id).
    """
    seen: dict[str, tuple[int, str]] = {}
    for root, file in _files(paths):
        name = file.relative_to(root).as_posix()
        empty = True
        for document in _READERS[file.suffix.lower()](file, name, columns):
            empty = False
            content = hash((document.text, repr(document.metadata)))
            known, where = seen.setdefault(document.id, (content, name))
            if known != content:
                raise Refusal(
                    FailureCode.DUPLICATE_ID,
                    f"{name}: id {document.id[:80]!r} is that of another document in {where}: give each its own id",
                )
            yield document
        if empty:
            raise Refusal(FailureCode.DOCUMENT_EMPTY, f"{name} holds no text: leave it out")


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """(what its name is relative to, file)"""
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and _is_ours(file.relative_to(path)))
            if not found:
                raise Refusal(
                    FailureCode.DOCUMENT_EMPTY, f"{path} holds no document: give files of type {', '.join(_READERS)}"
                )
            yield from ((path, file) for file in found)
        elif not path.is_file():
            raise Refusal(FailureCode.DOCUMENT_UNREADABLE, f"there is no file or folder {path}")
        elif path.suffix.lower() not in _READERS:
            raise Refusal(
                FailureCode.DOCUMENT_UNREADABLE, f"{path} is of no known type: give one of {', '.join(_READERS)}"
            )
        else:
            yield path.parent, path


def _is_ours(relative: Path) -> bool:
    return relative.suffix.lower() in _READERS and not any(part.startswith(".") for part in relative.parts)


def _text(file: Path, name: str, _: Columns) -> Iterator[Document]:
    text = _decoded(_whole(file, name), name)
    if text.strip():
        yield Document(id=name, text=text, metadata={"source": name}, markdown=file.suffix.lower() != ".txt")


def _html(file: Path, name: str, _: Columns) -> Iterator[Document]:
    title, text = html_as_markdown(_decoded(_whole(file, name), name))
    if text:
        titled: Metadata = {"title": title} if title else {}
        yield Document(id=name, text=text, metadata={"source": name, **titled}, markdown=True)


def _pdf(file: Path, name: str, _: Columns) -> Iterator[Document]:
    try:
        pages = pdf_pages(_whole(file, name))
    except Unreadable as error:
        raise Refusal(FailureCode.DOCUMENT_UNREADABLE, f"{name}: {error}") from None
    if not any(page.strip() for page in pages):
        raise Refusal(
            FailureCode.DOCUMENT_EMPTY, f"{name} has no text, only pictures perhaps: run character recognition over it"
        )
    for number, page in enumerate(pages, 1):
        if page.strip():
            yield Document(id=f"{name}#page={number}", text=page, metadata={"source": name, "page": number})


def _jsonl(file: Path, name: str, columns: Columns) -> Iterator[Document]:
    for number, line in enumerate(_lines(file, name), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise _unreadable(f"{name}, line {number} is no JSON object: write one a line") from None
        yield _row(row, name, number, columns)


def _csv(file: Path, name: str, columns: Columns) -> Iterator[Document]:
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.DictReader(_lines(file, name), strict=True)
    try:
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise _unreadable(f"{name}, row {number} has more or fewer fields than the head: make them agree")
            yield _row(row, name, number, columns)
    except csv.Error as error:
        raise _unreadable(f"{name}, line {rows.line_num}: {error}") from None


def _row(row: dict[str, Any], name: str, number: int, columns: Columns) -> Document:
    text = row.get(columns.text)
    if not isinstance(text, str):
        raise _unreadable(
            f"{name}, row {number} has no text field {columns.text!r}: name the one it has with --text-field"
        )
    if not text.strip():
        raise Refusal(FailureCode.DOCUMENT_EMPTY, f"{name}, row {number} has an empty text: leave it out")
    id_ = row.get(columns.id)
    metadata = {key: value for key, value in row.items() if key not in {columns.text, columns.id}}
    return Document(
        id=f"{name}:{number}" if id_ in (None, "") else str(id_),
        text=text,
        metadata={"source": name, **{key: value for key, value in metadata.items() if _is_metadata(value)}},
    )


def _is_metadata(value: Any) -> bool:
    """Scalars and lists of them; what is nested deeper cannot be filtered by."""
    if isinstance(value, list):
        return all(isinstance(one, str | int) for one in value)
    return isinstance(value, str | int | float)


def _whole(file: Path, name: str) -> bytes:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise Refusal(
                FailureCode.DOCUMENT_TOO_LARGE,
                f"{name} has more than {MAX_FILE_BYTES // 2**20} MiB: split it, or make it JSONL",
            )
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(f"{name} cannot be read ({error.strerror}): change its rights, or leave it out") from None


def _lines(file: Path, name: str) -> Iterator[str]:
    """Line by line, so that no line, however long, is in memory whole."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise Refusal(
                        FailureCode.DOCUMENT_TOO_LARGE,
                        f"{name}, line {number} has more than {MAX_LINE_BYTES // 2**20} MiB: split its text over rows",
                    )
                yield _decoded(line, f"{name}, line {number}")
    except OSError as error:
        raise _unreadable(f"{name} cannot be read ({error.strerror}): change its rights, or leave it out") from None


def _decoded(data: bytes, where: str) -> str:
    """Guessing an encoding would put wrong letters into facts without a word: what is not UTF-8 is refused."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(f"{where} is not UTF-8 (byte {error.start}): convert it, for example with iconv") from None
    if "\0" in text:
        raise _unreadable(f"{where} holds zero bytes: it is no text, or UTF-16; convert it to UTF-8")
    return text


def _unreadable(message: str) -> Refusal:
    return Refusal(FailureCode.DOCUMENT_UNREADABLE, message)


_READERS: Final[dict[str, Callable[[Path, str, Columns], Iterator[Document]]]] = {
    ".txt": _text,
    ".md": _text,
    ".markdown": _text,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
