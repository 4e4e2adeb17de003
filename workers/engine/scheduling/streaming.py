"""Texts told while they are made: of each row that streams what has come since the last piece and is certain."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from guideway.workers.engine.scheduling.row import Row, RowStatus
from guideway.workers.messages.from_engine import Piece, Pieces

BETWEEN_S: Final = 0.05
"""At least so many seconds lie between two pieces of a row, but for the last."""


class Certain:
    """Bytes of a text in, as they come; out what nothing can take back: whole characters, no beginning of a stop
    string. Pure.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop.encode() for stop in stops]
        # Told that more may come, it keeps back what is not a whole character yet.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""

    def add(self, data: bytes) -> str:
        """What is certain now and was not before."""
        held = self._held + data
        end = len(held) - self._begun(held)
        self._held = held[end:]
        return self._decoder.decode(held[:end])

    def _begun(self, held: bytes) -> int:
        """How many bytes at the end may become a stop string."""
        longest = 0
        for stop in self._stops:
            at = max(0, len(held) - len(stop) + 1)
            while (at := held.find(stop[:1], at)) >= 0:
                if stop.startswith(held[at:]):
                    longest = max(longest, len(held) - at)
                    break
                at += 1
        return longest


@dataclass(slots=True)
class _Told:
    certain: Certain
    text: str = ""
    """What was told of the row's text."""
    tokens: int = 0
    """How many of its tokens were looked at."""
    at: float = float("-inf")
    """When its last piece was told, Unix time in seconds."""


class Streaming:
    """Owner of what was told of each row that streams."""

    def __init__(self, bytes_from: Callable[[Row, int], bytes]) -> None:
        """bytes_from: the bytes of a row's text from one of its tokens on."""
        self._bytes_from = bytes_from
        self._told: dict[Row, _Told] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Tell the texts of those rows whose request asks for it, until they end."""
        for row in rows:
            if row.admit.partial:
                self._told[row] = _Told(Certain(row.generation.stop))

    def pieces(self, now: float) -> Pieces | None:
        """What to tell at `now` (Unix time in seconds); of rows that have just ended the rest. None: nothing."""
        if not self._told:
            return None
        found = []
        for row, told in list(self._told.items()):
            if row.status is RowStatus.ENDED:
                del self._told[row]
                more = self._rest(row, told)
            elif 0 <= now - told.at < BETWEEN_S:
                continue
            else:
                more = self._more(row, told)
            if more != "":
                found.append(Piece(id=row.id, sample=row.sample, text=more))
                told.text += more or ""
                told.at = now
        return Pieces(pieces=found) if found else None

    def _more(self, row: Row, told: _Told) -> str:
        if row.walk is not None:
            # It writes labels only to see how probable they are.
            return ""
        if row.grammar is not None and (certain := row.grammar.certain) is not None:
            return certain[len(told.text) :]
        data = self._bytes_from(row, told.tokens)
        told.tokens = len(row.token_ids)
        return told.certain.add(data)

    def _rest(self, row: Row, told: _Told) -> str | None:
        """The end of the text of a row that has ended; None where what was told is not its beginning."""
        if row.generated is None or row.generated.failure is not None:
            return ""
        text = row.generated.text
        return text[len(told.text) :] if text.startswith(told.text) else None
