"""What the engine has done since its start, and when the I/O process is told of it. Pure; no tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from guideway.workers.engine.scheduling.row import Row
from guideway.workers.messages.from_engine import BatchReport, Progress

_PROGRESS_S: Final = 1.0
"""Between two reports of progress, while requests are open."""


@dataclass
class Statistics:
    """Owner of the counts since the start, and of what was last reported."""

    steps: int = 0
    """Steps in which rows ran."""
    output_tokens: int = 0
    forced_tokens: int = 0
    """Those of them that a grammar left no choice about, which took no step of their own."""
    reused_tokens: int = 0
    """Prompt tokens whose keys and values were copied and not computed."""
    preempted: int = 0
    """How often a row gave up its seat."""
    busy_s: float = 0.0
    """Time spent in steps."""
    _members: set[tuple[str, int]] = field(default_factory=set)
    """(request's attempt, sample) of the rows that were last reported."""
    _progress_at: float = 0.0

    def members(self, rows: Collection[Row]) -> BatchReport | None:
        """The report of the seated `rows`; None where they are those of the last report."""
        members = {(row.id, row.sample) for row in rows}
        if members == self._members:
            return None
        self._members = members
        return BatchReport(step=self.steps, rows=[row.report() for row in rows])

    def progress(
        self, now: float, *, running: int, waiting: int, idle: bool, rows: Collection[Row] = ()
    ) -> Progress | None:
        """The report of progress at `now` (Unix time in seconds); None where the last one is not a second old.

        running, waiting: numbers of rows. rows: those that are seated. idle: whether no request is open; then every
        call reports.
        """
        # A clock that was set back does not tell how old the last report is.
        if not idle and 0 <= now - self._progress_at < _PROGRESS_S:
            return None
        self._progress_at = now
        return Progress(
            step=self.steps,
            running=running,
            waiting=waiting,
            output_tokens=self.output_tokens,
            busy_s=self.busy_s,
            reused_tokens=self.reused_tokens,
            preempted=self.preempted,
            rows=Counter(row.request.calling_namespace for row in rows),
        )
