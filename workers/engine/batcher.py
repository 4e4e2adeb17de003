"""Which rows run, and how much of their prompts a step takes in: budgets, turns, deadlines. No tensors here."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from typing import Final

from guideway.workers.engine.row import Row

_LEAST_CHUNK: Final = 64
"""Tokens below which it does not pay to take in one more long prompt at the same step."""


@dataclass(frozen=True)
class Choice:
    """Who comes and who goes, before a step runs."""

    expired: list[Row]
    """Past their deadline, waiting or running; no longer with the batcher."""
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
    """Owner of who waits and who runs.

    Namespaces take turns: each admission serves the namespace that was served longest ago, whatever the others have
    waiting. Within a namespace rows run in the order in which they came.

    A row waits as well while another one takes in a head that they share, and then need not compute it.
    """

    def __init__(self, *, max_rows: int, max_step_tokens: int, heads: Container[bytes] = ()) -> None:
        """heads: the keys of those that are known, at any time."""
        self._max_rows = max_rows
        self._max_step_tokens = max_step_tokens
        self._heads = heads
        self._waiting: dict[str, deque[Row]] = {}
        """Per namespace, the one to be served next first; no queue is empty."""
        self._running: dict[Row, None] = {}
        """The one that was admitted first comes first."""

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, rows: Iterable[Row]) -> None:
        """Let `rows` wait for their turn."""
        for row in rows:
            self._waiting.setdefault(row.namespace, deque()).append(row)

    def drop(self, rows: Iterable[Row]) -> None:
        """Forget `rows`, wherever they are: they have ended, or nobody wants them."""
        for row in rows:
            self._running.pop(row, None)
            queue = self._waiting.get(row.namespace)
            if queue is not None and row in queue:
                queue.remove(row)
                if not queue:
                    del self._waiting[row.namespace]

    def choose(self, now: float) -> Choice:
        """Who comes and who goes at `now` (Unix time in seconds)."""
        expired = [row for row in self._all() if row.is_late(now)]
        self.drop(expired)
        return Choice(expired, self._admit())

    def plan(self) -> Plan:
        """What the next step runs of the rows that are seated."""
        decoding = [row for row in self._running if row.decodes]
        entering = [row for row in self._running if not row.decodes]
        return Plan(decoding, share_out(entering, max(1, self._max_step_tokens - len(decoding))))

    def _all(self) -> list[Row]:
        return [*self._running, *(row for queue in self._waiting.values() for row in queue)]

    def _admit(self) -> list[Row]:
        admitted: list[Row] = []
        in_work = {head.key for row in self._running for head in row.heads if row.cached_tokens < head.tokens}
        while len(self._running) < self._max_rows and (row := self._next(in_work)):
            self._take(row)
            in_work.update(head.key for head in row.heads)
            admitted.append(row)
        return admitted

    def _next(self, in_work: Collection[bytes]) -> Row | None:
        """Whose turn it is; not that of rows with a head that is being taken in."""
        for queue in self._waiting.values():
            for row in queue:
                if not any(head.key in in_work and head.key not in self._heads for head in row.heads):
                    return row
        return None

    def _take(self, row: Row) -> None:
        queue = self._waiting.pop(row.namespace)
        queue.remove(row)
        if queue:
            self._waiting[row.namespace] = queue
        self._running[row] = None


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
