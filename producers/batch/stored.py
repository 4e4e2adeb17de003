"""What the store holds of a job while it runs: pieces of its input and of its results. Pure.

A piece is a part of the file, in its order: so many rows as are sent in one transaction. A job's rows are numbered from
0 on, bad and repeated ones too. Everything is msgpack, written and read by ourselves only: whoever splits a file reads
it by `producers/batch/files`, and batchers never do.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from guideway.producers.batch.files.row import OWN, AnswerForm
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Failed
from guideway.schemas.services.batch import BatchEnded, Counts, Outcome

PIECE_ROWS: Final = 500
PIECE_BYTES: Final = 2**20
"""Of what rows ask. A larger row has a piece of its own."""
MAX_PIECE_BYTES: Final = 24 * 2**20
"""A batcher reads no larger piece of the input: the longest row that an event may have, and its piece."""

_MOST_PLACES: Final = 2**16
T = TypeVar("T")


class Damaged(ValueError):
    """What stands in the store is not what was written there."""


class SentRow(msgspec.Struct, frozen=True, array_like=True, tag="sent", omit_defaults=True):
    """A row that becomes an event."""

    line: int
    id: str
    endpoint: str | None
    content: bytes
    content_type: str
    headers: tuple[tuple[str, bytes], ...] = ()
    guidance: tuple[str, ...] = ()
    answer: AnswerForm = OWN

    @property
    def asked_bytes(self) -> int:
        """What the row itself takes of an event."""
        return (
            len(self.content)
            + sum(len(name) + len(value) for name, value in self.headers)
            + sum(len(name) + 1 for name in self.guidance)
        )


class SameRow(msgspec.Struct, frozen=True, array_like=True, tag="same", omit_defaults=True):
    """A row that asks what an earlier one asks: it gets the answer of that one."""

    line: int
    id: str
    of: int
    """The number of the earlier row."""
    answer: AnswerForm = OWN


class RefusedRow(msgspec.Struct, frozen=True, array_like=True, tag="refused", omit_defaults=True):
    """A row of the file that cannot be sent."""

    line: int
    id: str | None
    code: FailureCode
    message: str
    answer: AnswerForm = OWN
    param: str | None = None
    """In OpenAI's form: the parameter that is to blame."""


StoredRow = SentRow | SameRow | RefusedRow


class PieceOf(msgspec.Struct, frozen=True, array_like=True):
    """One piece, as the list of all says."""

    rows: Annotated[int, Meta(ge=1)]
    digest: str
    """SHA-256 of its bytes."""
    endpoints: list[int] = []
    """Which endpoints its rows go to, as the index numbers them; empty: that is not noted, or none."""


class Index(msgspec.Struct, frozen=True, dict=True):
    """All pieces of a job's input."""

    pieces: list[PieceOf]
    endpoints: list[str] = []
    """Those of all rows, in the order in which they come; those that it has no room for count as one."""

    @property
    def firsts(self) -> Sequence[int]:
        """The number of the first row of each piece, and last the number of all rows."""
        if "_firsts" not in self.__dict__:
            self.__dict__["_firsts"] = [0, *accumulate(one.rows for one in self.pieces)]
        found: Sequence[int] = self.__dict__["_firsts"]
        return found

    def piece_of(self, row: int) -> int:
        """The piece that holds the row."""
        return bisect_right(self.firsts, row) - 1

    def number_of(self, row: SentRow) -> int:
        """The number of the row's endpoint."""
        if "_numbers" not in self.__dict__:
            self.__dict__["_numbers"] = {name: number for number, name in enumerate(self.endpoints)}
        numbers: dict[str, int] = self.__dict__["_numbers"]
        return numbers.get(row.endpoint or "", len(self.endpoints))

    def may_have(self, piece: int, endpoint: int) -> bool:
        """Whether the piece may have rows of this endpoint, by its number."""
        endpoints = self.pieces[piece].endpoints
        return not endpoints or endpoint in endpoints

    @property
    def last_pieces(self) -> Mapping[int, int]:
        """By endpoint: the last piece that is known to have rows of it."""
        if "_lasts" not in self.__dict__:
            self.__dict__["_lasts"] = {one: at for at, piece in enumerate(self.pieces) for one in piece.endpoints}
        found: Mapping[int, int] = self.__dict__["_lasts"]
        return found


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What stands before the replies of one part of a piece's results."""

    counts: Counts
    answerable: int
    """Rows of the whole piece that get an answer of their own: repeated ones get none."""
    came: list[Annotated[int, Meta(ge=0, lt=_MOST_PLACES)]]
    """Places in the piece of the rows that are answered here, in the order in which that came."""
    sizes: list[Annotated[int, Meta(ge=0)]]
    """Bytes of the replies, in the order of the places."""

    @property
    def places(self) -> int:
        """Which places these are: the bits of this number."""
        return sum(1 << place for place in self.came)


class Part(msgspec.Struct, frozen=True):
    """Some results of a piece: all of them, or those that are there while others are waited for."""

    counts: Counts
    answerable: int
    replies: dict[int, bytes]
    """The reply to the row at this place of the piece, as JSON, in the order in which they came."""

    @property
    def head(self) -> Head:
        """What stands before the replies."""
        sizes = [len(self.replies[place]) for place in sorted(self.replies)]
        return Head(self.counts, self.answerable, list(self.replies), sizes)

    @property
    def is_whole(self) -> bool:
        """Whether no row of the piece is missing."""
        return len(self.replies) == self.answerable


class Decision(msgspec.Struct, frozen=True):
    """How a job ends. Once it is written, nothing else comes of the job, whoever goes on with it."""

    outcome: Outcome
    at_ms: int


class Stored(Generic[T]):
    """Bytes ↔ one of these. Bytes that are none raise Damaged."""

    def __init__(self, kind: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    def encode(self, value: T) -> bytes:
        """The value as msgpack."""
        return self._encoder.encode(value)

    def decode(self, data: bytes) -> T:
        """The value of these bytes. Raises Damaged."""
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Damaged(type(error).__name__) from None


ROWS: Stored[list[StoredRow]] = Stored(list[SentRow | SameRow | RefusedRow])
INDEX: Stored[Index] = Stored(Index)
HEAD: Stored[Head] = Stored(Head)
DECISION: Stored[Decision] = Stored(Decision)
ENDED: Stored[BatchEnded] = Stored(BatchEnded)


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of all."""
    sent = completed = prompt_tokens = output_tokens = 0
    failures: dict[str, int] = {}
    for one in counts:
        sent += one.sent
        completed += one.completed
        prompt_tokens += one.prompt_tokens
        output_tokens += one.output_tokens
        for code, count in one.failures.items():
            failures[code] = failures.get(code, 0) + count
    return Counts(
        sent=sent,
        completed=completed,
        failures=failures,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


class RequestIds:
    """The ids of a job's requests: `JOB.ROW.SEAL`, the same whoever sends a row, and however often.

    The seal is made with the job's secret. Any caller of the namespace may have replies sent to the topic from which a
    batcher reads: without the seal, it could answer a row of which it guesses the id, or cancel it.
    """

    def __init__(self, job: str, secret: str) -> None:
        self._job, self._key = job, bytes.fromhex(secret)

    def of(self, row: int) -> str:
        """The id of a row's request. row: its number."""
        plain = f"{self._job}.{row}"
        return f"{plain}.{hashlib.blake2b(plain.encode(), key=self._key, digest_size=8).hexdigest()}"

    def row(self, id_: str) -> int | None:
        """The number of the row whose request this is; None: it is of another job, or of nobody's."""
        of, _, number = id_.rpartition(".")[0].rpartition(".")
        if of != self._job or not (number.isascii() and number.isdigit() and len(number) < 12):
            return None
        return int(number) if self.of(int(number)) == id_ else None


def failure(id_: str, code: FailureCode, message: str, endpoint: str | None = None) -> Failed:
    """The reply to a row that no endpoint has answered. id_: of its request."""
    _, namespace, name = (endpoint or "//").split("/", 2)
    return Failed(
        id=id_,
        namespace=namespace,
        endpoint=name,
        code=code,
        message=message,
        retryable=code.retryable,
    )
