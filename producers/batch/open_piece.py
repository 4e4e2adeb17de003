"""Rows of one piece of a job that are under way, and what is noted of all such. Pure but for `Notes`."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.stored import Index, Part
from guideway.schemas.reply import Usage
from guideway.schemas.services.batch import Counts

ALL: Final = -1
"""Instead of an endpoint: those that are not left behind."""


class Seen(msgspec.Struct, frozen=True):
    """What a batcher looks at in a reply."""

    schema: str
    id: str
    usage: Usage | None = None
    code: str = ""
    retryable: bool = False


SEEN: Final = msgspec.json.Decoder(Seen)


class OpenPiece:
    """Rows of one piece that are under way: of one endpoint that was left behind, or of the others."""

    def __init__(self, number: int, endpoint: int, first: int, answerable: int, reply_from: int) -> None:
        """first: the number of the piece's first row. reply_from: no reply to its rows stands before this offset."""
        self.number, self.endpoint, self.reply_from = number, endpoint, reply_from
        self._first, self._answerable = first, answerable
        self.waiting: dict[int, int] = {}
        """The rows, by number, that are published and not answered: their endpoints."""
        self.endpoints: Counter[int] = Counter()
        """How many rows wait of each endpoint."""
        self._forget()

    def _forget(self) -> None:
        self.replies: dict[int, bytes] = {}
        """By place in the piece, in the order in which they came."""
        self.held_bytes = 0
        self.sent = len(self.waiting)
        self.failures: Counter[str] = Counter()
        self.completed = self.prompt_tokens = self.output_tokens = 0

    def begin(self, row: int, endpoint: int) -> None:
        """The row of this number is about to be published."""
        self.waiting[row] = endpoint
        self.endpoints[endpoint] += 1
        self.sent += 1

    def refuse(self, row: int, reply: bytes, code: str) -> None:
        """A bad row, which is not published."""
        self.sent += 1
        self._note(row, reply)
        self.failures[code] += 1

    def answer(self, row: int, reply: bytes, seen: Seen) -> None:
        """What came of a row that was published."""
        endpoint = self.waiting.pop(row)
        self.endpoints[endpoint] -= 1
        if not self.endpoints[endpoint]:
            del self.endpoints[endpoint]
        self._note(row, reply)
        if seen.code:
            self.failures[seen.code] += 1
        else:
            self.completed += 1
        if seen.usage is not None:
            self.prompt_tokens += seen.usage.prompt_tokens
            self.output_tokens += seen.usage.output_tokens

    def _note(self, row: int, reply: bytes) -> None:
        self.replies[row - self._first] = reply
        self.held_bytes += len(reply)

    @property
    def counts(self) -> Counts:
        return Counts(
            sent=self.sent,
            completed=self.completed,
            failures=dict(self.failures),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )

    def part(self) -> Part:
        """What came since the last part, to be written."""
        counts = msgspec.structs.replace(self.counts, sent=self.sent - len(self.waiting))
        return Part(counts, self._answerable, self.replies)

    def is_written(self) -> None:
        """The part is in the store."""
        self._forget()


class Next(msgspec.Struct, frozen=True):
    """What is to be published next: rows of this piece."""

    piece: int
    endpoint: int = ALL
    """Of one endpoint that was left behind, or of the others."""
    rooms: Mapping[int, int] = {}
    """How many rows of these endpoints; of others, as many as there are."""


class Behind(msgspec.Struct, frozen=True):
    """What was noted of an endpoint that is left behind."""

    row: int
    piece: int
    reply_from: int


class Noted(msgspec.Struct, frozen=True):
    """What `noted` has told."""

    pieces: Mapping[int, int]
    """Open pieces: where replies to them begin."""
    behind: Mapping[int, Behind]
    """By endpoint."""


_MOST_NOTED: Final = 3_500
"""Characters of a commit's metadata; brokers refuse more than 4,096 by default."""


class Notes:
    """What is noted, as it is committed: as it is, or, where it is long, as `@` and its name in the store.

    Methods may take long, and raise what the store raises.
    """

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._names: list[str] = []
        """Of the one that was committed last, and of the next."""

    def committable(self, noted: str) -> str:
        """The text to be committed. Called again, the one before was; if that is not known, `read` comes between."""
        if len(noted) <= _MOST_NOTED:
            return noted
        name = self._folder.put_note(noted.encode())
        for old in self._names[:-1]:
            with contextlib.suppress(FileNotFoundError):
                self._folder.delete(f"notes/{old}")
        self._names = [*self._names[-1:], name]
        return f"@{name}"

    def read(self, committed: str) -> Noted:
        """What was noted. Raises Damaged, FileNotFoundError."""
        name = committed.removeprefix("@")
        self._names = [name] if name != committed else []
        return read_noted(self._folder.note(name).decode() if self._names else committed)


def noted(pieces: Iterable[OpenPiece], behind: Mapping[int, int], index: Index) -> str:
    """Where replies begin: `PIECE:OFFSET` of each open piece, `ENDPOINT~ROW:PIECE:OFFSET` of each endpoint that is left
    behind: from ROW on nothing of it is published, before PIECE all of it is answered. With spaces.
    """
    by_endpoint = open_by_endpoint(pieces)
    told = [f"{piece.number}:{piece.reply_from}" for piece in by_endpoint.get(ALL, ())]
    for endpoint, row in behind.items():
        own = by_endpoint.get(endpoint, ())
        piece = min((one.number for one in own), default=index.piece_of(min(row, index.firsts[-1] - 1)))
        told.append(f"{endpoint}~{row}:{piece}:{min((one.reply_from for one in own), default=0)}")
    return " ".join(told)


def open_by_endpoint(pieces: Iterable[OpenPiece]) -> dict[int, list[OpenPiece]]:
    """Pieces by their endpoint, or `ALL`."""
    found: dict[int, list[OpenPiece]] = {}
    for piece in pieces:
        found.setdefault(piece.endpoint, []).append(piece)
    return found


def read_noted(text: str) -> Noted:
    """What cannot be read is left out."""
    pieces: dict[int, int] = {}
    behind: dict[int, Behind] = {}
    for one in text.split():
        endpoint, is_behind, rest = one.rpartition("~")
        numbers = [int(part) for part in (endpoint, *rest.split(":")) if part.isascii() and part.isdigit()]
        if not is_behind and len(numbers) == 2:
            pieces[numbers[0]] = numbers[1]
        elif len(numbers) == 4:
            behind[numbers[0]] = Behind(*numbers[1:])
    return Noted(pieces, behind)


def to_resume(noted: Noted, index: Index, sent: int) -> Iterator[tuple[Next, int]]:
    """What was published before and may wait, with where its replies begin; -1: nobody knows.

    sent: how many pieces were gone through.
    """
    for number in range(sent):
        # What is not noted is answered, or of an endpoint that is left behind.
        if number in noted.pieces or not noted.behind:
            yield Next(number), noted.pieces.get(number, -1)
    for endpoint, one in noted.behind.items():
        for number in range(one.piece, sent):
            if index.firsts[number] < one.row and number not in noted.pieces and index.may_have(number, endpoint):
                yield Next(number, endpoint), one.reply_from
