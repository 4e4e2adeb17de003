"""The part of a job that is under way: rows that are published, and not all answered. Pure: takes `now`.

A job's rows go out piece by piece. Where an endpoint has no room for more rows while others could do with some, it is
*left behind*: the pieces go on without its rows, which are read again later, from its first one that is not published.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from guideway.producers.batch.flows import Flows
from guideway.producers.batch.open_piece import ALL, SEEN, Next, OpenPiece, noted, open_by_endpoint
from guideway.producers.batch.parts import Finished
from guideway.producers.batch.stored import (
    PIECE_ROWS,
    Index,
    RefusedRow,
    RequestIds,
    SameRow,
    SentRow,
    StoredRow,
    failure,
)
from guideway.schemas.failures import FailureCode
from guideway.schemas.wire import REPLY

WINDOW_ROWS: Final = 2000
"""Rows that may be unanswered, of all jobs that a batcher has of one partition: their share of a lane is waiting for
them, and the rest of the file waits in the store."""
MOST_OPEN: Final = 512
"""Pieces: a few rows that take long hold each of them open. Whoever takes the job over reads them again."""
MOST_OF_ONE: Final = 16
"""Of these, pieces that wait for one endpoint: where it has a row in each, it would soon hold up all. Fewer where many
are open, so that there is one for each endpoint that may be left behind."""
MOST_BEHIND: Final = 256
"""Endpoints that are left behind, for the same reason."""
MOST_CAUGHT_UP: Final = 64
"""Pieces in a row of one of them: each is read again for it alone."""
PATIENCE_S: Final = 10.0
"""An endpoint is left behind when it had no room for so long: rows of others may only have come before its own. One is
waited for less, the more are left behind: else they would hold up the others one after the other."""
HELD_BYTES: Final = 24 * 2**20
"""Of replies that are not written yet, those to come included. One piece may have more to come."""
SPILT_BYTES: Final = 8 * 2**20
"""Replies of one piece that take so much are written, though others of it are still to come."""
RETRIES_S: Final = (2.0, 10.0, 30.0)
"""A row whose failure may pass is sent again after so long."""
QUOTA_S: Final = 10.0
"""A row that its namespace's limits refuse is sent again after so long, until the job's deadline."""


class Window:
    """Owner of what is under way of one job."""

    def __init__(self, ids: RequestIds, index: Index, finished: Finished | None = None) -> None:
        """finished: what is in the store; it is told of more by whoever writes it."""
        self._ids, self._index, self._finished = ids, index, finished or Finished()
        self.open: dict[tuple[int, int], OpenPiece] = {}
        """By piece, and endpoint or `ALL`."""
        self.behind: dict[int, int] = {}
        """By endpoint that is left behind: its first row that is not published, or where the pieces stand."""
        self.stuck: set[int] = set()
        """Endpoints that answer nothing and for which all rows wait, since no more can be left behind."""
        self._flows = Flows()
        self._where: dict[int, OpenPiece] = {}
        """By row that waits."""
        self._replies = self._reply_bytes = 0
        """Of all that were taken."""
        self._attempts: Counter[int] = Counter()
        self._again: list[tuple[float, int]] = []
        """(when, row), a heap."""

    # What is under way ------------------------------------------------------------------------------------------------

    def publish(self, one: Next, rows: Sequence[StoredRow], reply_from: int) -> list[tuple[int, SentRow]]:
        """Rows (number, row) that are about to be published. rows: the whole piece."""
        return self._add(one, rows, reply_from, self._chosen(one, rows))

    def resume(self, one: Next, rows: Sequence[StoredRow], reply_from: int) -> list[tuple[int, SentRow]]:
        """Rows that were published before and have no result in the store."""
        found = []
        for number, row in self._unfinished(one.piece, rows):
            if isinstance(row, SentRow):
                endpoint = self._index.number_of(row)
                if one.endpoint not in (ALL, endpoint) or number >= self.behind.get(endpoint, number + 1):
                    continue
            elif one.endpoint != ALL:
                continue
            found.append((number, row))
        return self._add(one, rows, reply_from, found)

    def _add(
        self, one: Next, rows: Sequence[StoredRow], reply_from: int, chosen: Iterable[tuple[int, SentRow | RefusedRow]]
    ) -> list[tuple[int, SentRow]]:
        sent = []
        for number, row in chosen:
            piece = self.open.get((one.piece, one.endpoint))
            if piece is None:
                answerable = sum(not isinstance(other, SameRow) for other in rows)
                piece = OpenPiece(one.piece, one.endpoint, self._index.firsts[one.piece], answerable, reply_from)
                self.open[one.piece, one.endpoint] = piece
            if isinstance(row, SentRow):
                endpoint = self._index.number_of(row)
                piece.begin(number, endpoint)
                self._where[number] = piece
                self._flows.published(endpoint)
                sent.append((number, row))
            else:
                piece.refuse(number, REPLY.encode(failure(self._ids.of(number), row.code, row.message)), row.code.value)
        return sent

    def _chosen(self, one: Next, rows: Sequence[StoredRow]) -> list[tuple[int, SentRow | RefusedRow]]:
        found: list[tuple[int, SentRow | RefusedRow]] = []
        rooms = dict(one.rooms)
        if one.endpoint != ALL:
            begin = self.behind[one.endpoint]
            self.behind[one.endpoint] = self._index.firsts[one.piece + 1]
        for number, row in self._unfinished(one.piece, rows):
            if isinstance(row, RefusedRow):
                if one.endpoint == ALL:
                    found.append((number, row))
                continue
            endpoint = self._index.number_of(row)
            if endpoint != one.endpoint if one.endpoint != ALL else endpoint in self.behind:
                continue
            if one.endpoint != ALL and number < begin:
                continue
            if endpoint in rooms:
                if not rooms[endpoint]:
                    self.behind[endpoint] = number
                    if one.endpoint != ALL:
                        break
                    continue
                rooms[endpoint] -= 1
            found.append((number, row))
        return found

    def _unfinished(self, piece: int, rows: Sequence[StoredRow]) -> Iterator[tuple[int, SentRow | RefusedRow]]:
        first = self._index.firsts[piece]
        for place, row in enumerate(rows):
            if not isinstance(row, SameRow) and not self._finished.has(piece, place):
                yield first + place, row

    @property
    def unanswered(self) -> int:
        """Rows that are published and not answered."""
        return self._flows.waiting

    # What comes next --------------------------------------------------------------------------------------------------

    def admits(self, rows: int, now: float) -> bool:
        """Whether anything more may be published. rows: that may be unanswered. One piece always may."""
        if not self.open:
            return True
        held = sum(piece.held_bytes for piece in self.open.values())
        # What is still to come is as long as what came.
        lively = self.unanswered - self._flows.quiet(now)
        to_come = (lively + PIECE_ROWS) * self._reply_bytes // max(1, self._replies)
        # Where only endpoints are waited for that answer nothing, one piece may as well.
        return lively < rows and (not lively or held + to_come < HELD_BYTES)

    def next(self, sent: int, endpoints: Iterable[int], rows: int, now: float) -> Next | None:
        """What is to be published now; None: nothing yet. It may leave endpoints behind.

        sent: pieces that were gone through. endpoints: of the rows of the piece behind them; none where there is none.
        rows: that may be unanswered.
        """
        if not self.admits(rows, now):
            return None
        return self._next_behind(sent, rows, now) or self._next_piece(sent, set(endpoints), rows, now)

    def _next_behind(self, sent: int, rows: int, now: float) -> Next | None:
        all_open = open_by_endpoint(self.open.values())
        for endpoint, row in list(self.behind.items()):
            number = self._index.piece_of(row) if row < self._index.firsts[sent] else sent
            while number < sent and not self._index.may_have(number, endpoint):
                number += 1
                self.behind[endpoint] = self._index.firsts[number]
            own = [piece.number for piece in all_open.get(endpoint, [])]
            if number >= sent:
                if not own:
                    # It has caught up.
                    del self.behind[endpoint]
                continue
            if own and number - min(own) >= MOST_CAUGHT_UP:
                continue
            if self._flows.is_hungry(endpoint, rows, now):
                return Next(number, endpoint, {endpoint: self._flows.room(endpoint, rows, now)})
        return None

    def _next_piece(self, sent: int, endpoints: set[int], rows: int, now: float) -> Next | None:
        pieces = [piece for piece in self.open.values() if piece.endpoint == ALL]
        if sent >= len(self._index.pieces) or len(pieces) >= MOST_OPEN:
            return None
        self.stuck = set()
        own = endpoints - self.behind.keys()
        stuck = Counter(one for piece in pieces for one in piece.endpoints)
        most = max(1, min(MOST_OF_ONE, (MOST_OPEN - len(pieces)) // 4))
        on_trial = {one for one in own if stuck[one] < most and self._flows.is_on_trial(one, rows, now)}
        held = on_trial | {one for one in own if stuck[one] >= most}
        blocked = {one for one in own if not self._flows.has_room(one, rows, now, is_held=one in held)}
        if not blocked and (own or not endpoints):
            return Next(sent)
        if len(self.behind) + len(blocked) > MOST_BEHIND:
            quiet = (one for one in blocked if self._flows.is_quiet(one, now))
            self.stuck = {one for one in quiet if self._flows.blocked_s(one, now) >= PATIENCE_S}
            return None
        patience_s = PATIENCE_S / (1 + len(self.behind))
        if any(self._flows.blocked_s(one, now) < patience_s for one in blocked):
            return None
        rooms = {one: room for one in on_trial if (room := self._flows.room(one, rows, now))}
        if not rooms and not self._has_others(sent, endpoints, blocked, rows, now):
            return None
        for one in blocked - rooms.keys():
            self.behind[one] = self._index.firsts[sent]
        return Next(sent, rooms=rooms)

    def _has_others(self, sent: int, endpoints: set[int], blocked: set[int], rows: int, now: float) -> bool:
        """Whether an endpoint in this piece or behind it could do with rows."""
        others = {one for one, last in self._index.last_pieces.items() if last >= sent} | endpoints
        return any(self._flows.is_hungry(one, rows, now) for one in others - blocked - self.behind.keys())

    def silent(self, now: float) -> list[str]:
        """The endpoints that are waited for because they answer nothing."""
        waited, names = [*self.behind, *self.stuck], self._index.endpoints
        return [names[one] for one in waited if one < len(names) and self._flows.is_quiet(one, now)]

    # What comes back --------------------------------------------------------------------------------------------------

    def take(self, reply: bytes, now: float, deadline: float) -> bool:
        """Note a reply; False: it is to no row that waits, or changes nothing.

        A failure that may pass is not noted, and its row will be sent again, unless the deadline comes first.
        """
        try:
            seen = SEEN.decode(reply)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False
        row = self._ids.row(seen.id)
        piece = None if row is None else self._where.get(row)
        if row is None or piece is None:
            return False
        if seen.retryable and (wait_s := self._rest_s(row, seen.code)) is not None and now + wait_s < deadline:
            self._attempts[row] += 1
            heapq.heappush(self._again, (now + wait_s, row))
            return True
        self._flows.answered(piece.waiting[row], now)
        del self._where[row]
        self._attempts.pop(row, None)
        piece.answer(row, reply, seen)
        self._replies += 1
        self._reply_bytes += len(reply)
        return True

    def _rest_s(self, row: int, code: str) -> float | None:
        if code == FailureCode.DEADLINE_EXCEEDED.value:
            return None
        if code == FailureCode.QUOTA_EXCEEDED.value:
            return QUOTA_S
        tried = self._attempts[row]
        return RETRIES_S[tried] if tried < len(RETRIES_S) else None

    def due(self, now: float) -> dict[int, list[int]]:
        """The rows, by piece, that are to be sent again now."""
        found: dict[int, list[int]] = {}
        while self._again and self._again[0][0] <= now:
            _, row = heapq.heappop(self._again)
            if row in self._where:
                found.setdefault(self._index.piece_of(row), []).append(row)
        return found

    def finished(self) -> list[OpenPiece]:
        """Those of which no row waits."""
        return [piece for piece in self.open.values() if not piece.waiting]

    def spilling(self) -> list[OpenPiece]:
        """Those whose replies are to be written before all have come."""
        found = [piece for piece in self.open.values() if piece.held_bytes > SPILT_BYTES]
        rest = sorted((piece for piece in self.open.values() if piece not in found), key=lambda piece: piece.held_bytes)
        held = sum(piece.held_bytes for piece in rest)
        while held > HELD_BYTES // 2:
            found.append(one := rest.pop())
            held -= one.held_bytes
        return found

    def close(self, piece: OpenPiece) -> None:
        """All of it is in the store."""
        del self.open[piece.number, piece.endpoint]

    def noted(self) -> str:
        """What is committed with rows, and read by whoever goes on with the job."""
        return noted(self.open.values(), self.behind, self._index)
