"""What a batch file holds: rows that become events, and rows of which it is said why they cannot. Pure."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from guideway.schemas.failures import FailureCode


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A place between two rows, from which a file can be read on.

    JSONL and CSV: `line` lines and `offset` bytes stand before it, counted in the plain text: unpacked, in UTF-8,
    without a byte order mark. In a file that is plain itself the bytes before it are not read again. In one that is
    compressed, or in another encoding, they are unpacked again, but no row of them is read.

    Parquet: `line` rows stand before it, and `offset` is 0. Row groups before it are not read.
    """

    line: int = 0
    offset: int = 0


START: Final = Position()


class AnswerForm(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the answer of a row is written. It is small: it may travel with the request."""

    kind: Literal["own", "chat", "completion"] = "own"
    """`own`: our form; else as OpenAI answers `/v1/chat/completions` or `/v1/completions`."""
    model: str = ""
    """As the row names it; empty for our form."""
    told: int | None = None
    """How many likely tokens the row wants beside each; None: no log-probabilities."""
    tokens: str = "max_tokens"
    """The parameter by which the row bounds its answer."""


OWN: Final = AnswerForm()


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row that can be sent."""

    line: int
    """From 1 on: where the row begins in the file, as an editor counts lines of the plain text. Parquet: its row."""
    id: str
    """Of the row, as the file says, else `line-LINE`; never empty. No other row of the file that is given has it."""
    endpoint: str | None
    """`/NAMESPACE/NAME`; None: the router of the caller's namespace decides."""
    content: bytes
    """The value of the event."""
    content_type: str
    headers: tuple[tuple[str, bytes], ...] = ()
    """Further headers of the event: what the row says of its generation."""
    guidance: tuple[str, ...] = ()
    """Guidance that the row brings."""
    answer: AnswerForm = OWN
    next: Position
    """Behind the row."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that decides on the result: rows that have the same are the same work."""
        found = hashlib.sha256()
        headers = [part for name, value in self.headers for part in (name.encode(), value)]
        parts = [(self.endpoint or "").encode(), self.content, self.content_type.encode(), *headers]
        for part in [*parts, *(name.encode() for name in self.guidance)]:
            found.update(b"%d:" % len(part) + part)
        return found.digest()


class BadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row that cannot be sent. It is answered like any other, with this failure; the rest of the file goes on."""

    line: int
    last_line: int
    """Where it ends: mostly `line`. Of a CSV file whose quotes do not close, several lines are one bad row."""
    id: str | None
    """As the row says; None: it has none, or none that can be used."""
    code: FailureCode
    message: str
    """What is wrong and what to change, without the line."""
    param: str | None = None
    """In OpenAI's form: the parameter that is to blame."""
    answer: AnswerForm = OWN
    next: Position

    @property
    def where(self) -> str:
        """`line 7`, or `lines 7 to 9`."""
        return f"line {self.line}" if self.last_line == self.line else f"lines {self.line} to {self.last_line}"
