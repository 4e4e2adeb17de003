"""One look at a whole file before its rows are sent: how many there are, and which have the id of an earlier one."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from guideway.producers.batch.files.asked import id_column_of, row_id
from guideway.producers.batch.files.form import FileForm
from guideway.producers.batch.files.found import unusable
from guideway.producers.batch.files.reading import found_rows
from guideway.schemas.failures import Refusal

_PARTS: Final = 64
_DIGEST_BYTES: Final = 16
_NOTE_BYTES: Final = _DIGEST_BYTES + 8


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds; it can be stored beside it."""

    rows: int
    """Good and bad ones."""
    doubled: bytes = b""
    """The lines whose id an earlier row has, in order, eight bytes each, little-endian."""

    @property
    def doubled_lines(self) -> Lines:
        """The same, to be asked whether a line is one."""
        return Lines(self.doubled)


class Lines:
    """A set of lines in little room."""

    def __init__(self, packed: bytes) -> None:
        self._lines = array("Q", packed)

    def __contains__(self, line: object) -> bool:
        at = bisect_left(self._lines, line) if isinstance(line, int) else len(self._lines)
        return at < len(self._lines) and self._lines[at] == line

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[int]:
        return iter(self._lines)


def survey(source: BinaryIO, form: FileForm, *, go_on: Callable[[], None] = lambda: None) -> Survey:
    """Read all of the file. Memory does not grow with it: ids lie in a temporary folder, 24 bytes each.

    go_on: is called for each row, and raises where the rest is not wanted any more.
    Raises Refusal(invalid_data) where the file has no rows or too many, or cannot be read to its end.
    """
    rows = 0
    with tempfile.TemporaryDirectory(prefix="guideway-") as folder:
        parts = [(Path(folder) / str(part)).open("w+b") for part in range(_PARTS)]
        try:
            for found in found_rows(source, form):
                go_on()
                rows += 1
                if form.most_rows is not None and rows > form.most_rows:
                    raise unusable(f"{form.name} has more than {form.most_rows} rows: split it")
                if (id_ := _id(found.cells, form, found.line)) is not None:
                    digest = hashlib.blake2b(id_.encode(), digest_size=_DIGEST_BYTES).digest()
                    parts[digest[0] % _PARTS].write(digest + found.line.to_bytes(8, "big"))
            if not rows:
                raise unusable(f"{form.name} has no rows: write some, one for each request")
            doubled = array("Q")
            for part in parts:
                part.seek(0)
                doubled.extend(_doubled(part.read()))
        finally:
            for part in parts:
                part.close()
    return Survey(rows=rows, doubled=array("Q", sorted(doubled)).tobytes())


def _id(cells: dict[str, Any] | Refusal, form: FileForm, line: int) -> str | None:
    if isinstance(cells, Refusal):
        return None
    try:
        return row_id(cells, id_column_of(cells, form), line)
    except Refusal:
        return None


def _doubled(notes: bytes) -> Iterator[int]:
    """Lines in notes of (digest, line) that do not have the first line of their digest."""
    before = b""
    for note in sorted(notes[at : at + _NOTE_BYTES] for at in range(0, len(notes), _NOTE_BYTES)):
        if note[:_DIGEST_BYTES] == before:
            yield int.from_bytes(note[_DIGEST_BYTES:], "big")
        before = note[:_DIGEST_BYTES]
