"""Splits the rows of a file into pieces in the store, of which batchers send one at a time. Memory stays flat."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.producers.batch.files.row import BadRow, BatchRow
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.results.blame import said_in
from guideway.producers.batch.stored import (
    PIECE_BYTES,
    PIECE_ROWS,
    Index,
    PieceOf,
    RefusedRow,
    SameRow,
    SentRow,
    StoredRow,
)
from guideway.schemas.failures import FailureCode, Refusal

HEADERS_BYTES: Final = 2048
"""What a job's own headers take of an event, at most."""
_MOST_ENDPOINTS: Final = 1000
"""That are told apart; the rest count as one."""
_MOST_NOTED: Final = 2_000_000
"""Endpoints noted with pieces: the index is to stay one that is read."""
_ROW_BYTES: Final = 64
"""What a row takes beside its content, about."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    rows: int
    refused: int
    """Bad rows among them."""
    repeated: int
    """Rows among them that get the answer of an earlier one."""
    pieces: int
    index: str
    """The digest of the list of pieces."""


def split(
    rows: Iterable[BatchRow | BadRow],
    folder: JobFolder,
    *,
    dedupe: bool = False,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Split:
    """Write the rows into the store, whole or not at all: without its index, what is written counts for nothing.

    dedupe: rows that ask the same get one answer. progress: is told how many rows are written, piece by piece.
    Raises: Refusal(invalid_data) where there is no row; what the rows raise; OSError.
    """
    found: list[PieceOf] = []
    count = refused = repeated = 0
    with tempfile.TemporaryDirectory() as scratch, closing(_Asked(Path(scratch) / "asked")) as asked:
        piece: list[StoredRow] = []
        held = 0
        endpoints = _Endpoints()
        for row in rows:
            first = asked.first(row.digest, count) if dedupe and isinstance(row, BatchRow) else None
            kept = _stored(row, first)
            size = _ROW_BYTES + (kept.asked_bytes if isinstance(kept, SentRow) else 0)
            if piece and (len(piece) >= PIECE_ROWS or held + size > PIECE_BYTES):
                found.append(endpoints.noted(folder.put_rows(len(found), piece), piece))
                progress(count)
                piece, held = [], 0
            piece.append(kept)
            held += size
            count += 1
            refused += isinstance(kept, RefusedRow)
            repeated += isinstance(kept, SameRow)
        if piece:
            found.append(endpoints.noted(folder.put_rows(len(found), piece), piece))
    if not found:
        raise Refusal(FailureCode.INVALID_DATA, "the file has no row: write one a line")
    progress(count)
    index = folder.put_index(Index(found, list(endpoints.numbers)))
    return Split(rows=count, refused=refused, repeated=repeated, pieces=len(found), index=index)


def _stored(row: BatchRow | BadRow, first: int | None) -> StoredRow:
    if isinstance(row, BadRow):
        return RefusedRow(row.line, row.id, row.code, f"{row.where}: {row.message}", row.answer, row.param)
    if first is not None:
        return SameRow(row.line, row.id, first, row.answer)
    sent = SentRow(row.line, row.id, row.endpoint, row.content, row.content_type, row.headers, row.guidance, row.answer)
    size = sent.asked_bytes + HEADERS_BYTES
    if size > MAX_RECORD_BYTES:
        message = f"line {row.line}: the row has {size} bytes, {MAX_RECORD_BYTES} can be sent: shorten its text"
        return RefusedRow(row.line, row.id, FailureCode.TEXT_TOO_LONG, message, row.answer, said_in(row.answer))
    return sent


class _Endpoints:
    """Which endpoints the pieces have, so that nobody has to read a piece to know."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self._room = _MOST_NOTED

    def noted(self, piece: PieceOf, rows: Iterable[StoredRow]) -> PieceOf:
        """The piece, with its endpoints."""
        of = {row.endpoint or "" for row in rows if isinstance(row, SentRow)}
        for one in sorted(of - self.numbers.keys()):
            if len(self.numbers) < _MOST_ENDPOINTS:
                self.numbers[one] = len(self.numbers)
        found = sorted({self.numbers.get(one, len(self.numbers)) for one in of})
        self._room -= len(found)
        is_noted = self._room >= 0 and of <= self.numbers.keys()
        return msgspec.structs.replace(piece, endpoints=found) if is_noted else piece


class _Asked:
    """What the rows so far ask, on this machine's disk: a million digests are too many to hold."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(path, isolation_level=None)
        # It is thrown away with its folder, so nothing of it has to survive.
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16000"):
            self._rows.execute(f"PRAGMA {setting}")
        self._rows.execute("CREATE TABLE asked (digest BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        self._rows.execute("BEGIN")

    def first(self, digest: bytes, row: int) -> int | None:
        """The number of the first row that asked this; None: it is this one."""
        if self._rows.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", (digest, row)).rowcount:
            return None
        ((found,),) = self._rows.execute("SELECT row FROM asked WHERE digest = ?", (digest,))
        return int(found)

    def close(self) -> None:
        self._rows.close()
