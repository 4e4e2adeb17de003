"""Which rows run: admission under row and token budgets, turns of the namespaces, deadlines. No tensors here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from guideway.workers.engine.row import Row


@dataclass(frozen=True)
class Choice:
    """What one step is to do before it runs."""

    expired: list[Row]
    """Past their deadline, waiting or running; no longer with the batcher."""
    admitted: list[Row]
    """To be prefilled now; they count as running from here on."""


class Batcher:
    """Owner of who waits and who runs.

    Namespaces take turns: each admission serves the namespace that was served longest ago, whatever the others have
    waiting. Within a namespace rows run in the order in which they came.
    """

    def __init__(self, *, max_rows: int, max_prefill_tokens: int) -> None:
        self._max_rows = max_rows
        self._max_prefill_tokens = max_prefill_tokens
        self._waiting: dict[str, deque[Row]] = {}
        """Per namespace, the one to be served next first; no queue is empty."""
        self._running: set[Row] = set()

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
            self._running.discard(row)
            queue = self._waiting.get(row.namespace)
            if queue is not None and row in queue:
                queue.remove(row)
                if not queue:
                    del self._waiting[row.namespace]

    def choose(self, now: float) -> Choice:
        """What to do at `now` (Unix time in seconds)."""
        expired = [row for row in self._all() if row.is_late(now)]
        self.drop(expired)
        return Choice(expired, self._admit())

    def _all(self) -> list[Row]:
        return [*self._running, *(row for queue in self._waiting.values() for row in queue)]

    def _admit(self) -> list[Row]:
        admitted: list[Row] = []
        longest = 0
        while self._waiting and len(self._running) < self._max_rows:
            namespace, queue = next(iter(self._waiting.items()))
            longest = max(longest, queue[0].prompt_tokens)
            # Rows are prefilled side by side, padded to the longest. One alone is admitted whatever its length, or it
            # would wait for ever; and nobody overtakes one that does not fit, for the same reason.
            if admitted and longest * (len(admitted) + 1) > self._max_prefill_tokens:
                break
            row = queue.popleft()
            del self._waiting[namespace]
            if queue:
                self._waiting[namespace] = queue
            self._running.add(row)
            admitted.append(row)
        return admitted
