"""Which rows run, and how much of their prompts a step takes in: budgets, turns, deadlines. No tensors here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from typing import Final

from guideway.workers.engine.row import Row
from guideway.workers.engine.waiting import WaitingRows

_LEAST_CHUNK: Final = 64
"""Tokens below which it does not pay to take in one more long prompt at the same step."""

_ROOM_TOKENS: Final = 32
"""Where a row is admitted, every row has room for so many further ones: it is not to go again at once."""


@dataclass(frozen=True)
class Choice:
    """Who comes and who goes, before a step runs."""

    expired: list[Row]
    """Past their deadline, waiting or running; no longer with the batcher."""
    preempted: list[Row]
    """To give up their seats and what is cached of them; they wait again."""
    admitted: list[Row]
    """To be seated; they count as running from here on."""


@dataclass(frozen=True)
class Chunk:
    """Pieces of several rows, taken in side by side and padded to `tokens`; a row that misses fewer takes fewer."""

    rows: list[Row]
    tokens: int


@dataclass(frozen=True)
class Plan:
    """What one step runs; rows that are in neither part pause."""

    decoding: list[Row]
    """Each takes in its last token and gets the next one."""
    chunks: list[Chunk]
    """Rows that have all of theirs with it get their next token as well."""


class Batcher:
    """Owner of who waits and who runs. Whose turn it is, is a matter of `WaitingRows`.

    Keys and values of the rows that run have room for `max_kv_tokens`, counted as rows times the longest of them, for
    so they lie in memory. A row is admitted where it fits with some room to grow. Where rows grow beyond, the last one
    admitted goes back to wait, of the batch lane if there is one, and of the namespace that holds most; but never the
    one that has run longest, so that some row always comes to its end. It keeps what it has generated, and takes it in
    again with its prompt when its turn comes, which is before all others of its namespace.

    A row waits as well while another one takes in a head that they share, and then need not compute it.
    """

    def __init__(
        self, *, max_rows: int, max_step_tokens: int, max_kv_tokens: int = 2**62, heads: Container[bytes] = ()
    ) -> None:
        """heads: the keys of those that are known, at any time."""
        self._max_rows = max_rows
        self._max_step_tokens = max_step_tokens
        self._max_kv_tokens = max_kv_tokens
        self._heads = heads
        self._waiting = WaitingRows()
        self._running: dict[Row, None] = {}
        """The one that was admitted first comes first."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, rows: Iterable[Row]) -> None:
        """Let `rows` wait for their turn."""
        for row in rows:
            self._waiting.add(row)

    def drop(self, rows: Iterable[Row]) -> None:
        """Forget `rows`, wherever they are: they have ended, or nobody wants them."""
        for row in rows:
            self._running.pop(row, None)
            self._waiting.forget(row)

    def choose(self, now: float, *, is_ready: Callable[[Row], bool] = lambda _: True) -> Choice:
        """Who comes and who goes at `now` (Unix time in seconds).

        is_ready: whether a row's guidance is in memory; others overtake one that is not.
        """
        expired = [row for row in (*self._running, *self._waiting) if row.is_late(now)]
        self.drop(expired)
        preempted = self._preempt()
        return Choice(expired, preempted, [] if preempted else self._admit(is_ready))

    def plan(self) -> Plan:
        """What the next step runs of the rows that are seated."""
        decoding = [row for row in self._running if row.decodes]
        entering = [row for row in self._running if not row.decodes]
        for row in decoding:
            self._waiting.charge(row.namespace, 1)
        return Plan(decoding, share_out(entering, max(1, self._max_step_tokens - len(decoding))))

    def _preempt(self) -> list[Row]:
        preempted: list[Row] = []
        while len(self._running) > 1 and not self._fits(self._running, room=0):
            row = self._to_be_preempted()
            del self._running[row]
            preempted.append(row)
        # The last one admitted is the last to come back.
        for row in preempted:
            self._waiting.put_back(row)
        return preempted

    def _to_be_preempted(self) -> Row:
        held: Counter[str] = Counter()
        for row in self._running:
            held[row.namespace] += row.total_tokens
        _, *others = self._running
        # Of those that are equal, `max` takes the first: the last one admitted.
        return max(reversed(others), key=lambda row: (row.lane == "batch", held[row.namespace]))

    def upcoming(self, count: int) -> list[Row]:
        """The next rows in turn."""
        return list(itertools.islice(self._waiting.in_turn(), count))

    def _admit(self, is_ready: Callable[[Row], bool]) -> list[Row]:
        admitted: list[Row] = []
        in_work = {head.key for row in self._running for head in row.heads if row.cached_tokens < head.tokens}
        while len(self._running) < self._max_rows and (row := self._next(in_work, is_ready)):
            # Nobody overtakes one that does not fit, or it would wait for ever.
            if self._running and not self._fits([*self._running, row], room=_ROOM_TOKENS):
                break
            self._take(row)
            in_work.update(head.key for head in row.heads)
            admitted.append(row)
        return admitted

    def _next(self, in_work: Collection[bytes], is_ready: Callable[[Row], bool]) -> Row | None:
        """Whose turn it is; not that of rows with a head that is being taken in."""
        for row in self._waiting.in_turn():
            if not any(head.key in in_work and head.key not in self._heads for head in row.heads) and is_ready(row):
                return row
        return None

    def _take(self, row: Row) -> None:
        self._waiting.take(row)
        self._running[row] = None
        if not row.token_ids:
            known = [head.tokens for head in row.heads if head.key in self._heads]
            self._waiting.charge(row.namespace, row.prompt_tokens - max(known, default=0))

    def _fits(self, rows: Collection[Row], *, room: int) -> bool:
        """Whether `rows` have room for their next token and for `room` more, as far as they may come to that."""
        longest = max(row.total_tokens + 1 + min(room, row.most_left - 1) for row in rows)
        return len(rows) * longest <= self._max_kv_tokens


def share_out(entering: list[Row], budget: int) -> list[Chunk]:
    """Who of `entering`, the oldest first, takes in how much of `budget` > 0 tokens, padding counted.

    Short ones first, all at once, as long as they leave the others their equal share: they need not wait for a long
    one. What is left goes to the oldest of the rest, side by side if each gets a piece worth its while. Some row
    always gets on, and the oldest never waits for more than the short ones.
    """
    short: list[Row] = []
    for row in sorted(entering, key=lambda row: row.missing_tokens):
        if row.missing_tokens * len(entering) > budget:
            break
        short.append(row)
    chunks = []
    if short:
        chunks.append(Chunk(short, short[-1].missing_tokens))
        budget -= len(short) * short[-1].missing_tokens
    rest = [row for row in entering if row not in short]
    if rest:
        beside = max(1, min(len(rest), budget // _LEAST_CHUNK))
        chunks.append(Chunk(rest[:beside], min(budget // beside, max(row.missing_tokens for row in rest[:beside]))))
    return chunks
