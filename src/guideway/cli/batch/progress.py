"""A batch job as people watch it: a bar, rows a second, time left, tokens, failures by code."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Any, Final

import msgspec
from rich.progress import BarColumn, Progress, TextColumn

from guideway.cli.console.output import LINE_EVERY_S, clock, err, print_json
from guideway.producers.batch.jobs import Job
from guideway.schemas.services.batch import Counts

_RATE_S: Final = 20.0
"""The rate is that of so long."""


class Rate:
    """Rows a second of late. Pure: takes `now`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, rows: int, now: float) -> None:
        """So many rows are answered by now."""
        if not self._seen or self._seen[-1][1] != rows:
            self._seen.append((now, rows))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_S:
            self._seen.popleft()

    def per_s(self, now: float) -> float:
        """0 where nothing is known yet."""
        if len(self._seen) < 2:
            return 0.0
        return (self._seen[-1][1] - self._seen[0][1]) / max(0.001, now - self._seen[0][0])


class Watch:
    """`with Watch(...) as show:` – call `show(job)` with each news of it."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._rate = Rate()
        self._said_at, self._trouble = time.monotonic(), ""
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[what]}", markup=False),
            console=err,
            transient=True,
            disable=as_json or not err.is_terminal,
        )
        self._bar: Any = None

    def __enter__(self) -> Watch:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, job: Job) -> None:
        if self._as_json:
            print_json(told(job))
            return
        now = time.monotonic()
        counts = job.counts
        self._rate.note(counts.answered, now)
        what = said(job, self._rate.per_s(now))
        if self._bar is None:
            self._bar = self._bars.add_task(job.state, total=job.job.rows, what=what)
        self._bars.update(self._bar, description=job.state, completed=counts.answered, what=what)
        if self._bars.disable and now - self._said_at >= LINE_EVERY_S:
            self._said_at = now
            err.print(f"{job.state}: {what}")
        trouble = "" if job.progress is None else job.progress.trouble
        if trouble and trouble != self._trouble:
            err.print(f"held up: {trouble}")
        self._trouble = trouble


def said(job: Job, rows_per_s: float) -> str:
    """`1,200/5,000 rows  312 rows/s  0:12 min left  …`"""
    counts, rows = job.counts, job.job.rows
    parts = [f"{counts.answered:,}/{rows:,} rows"]
    if rows_per_s > 0 and job.ended is None:
        parts += [f"{rows_per_s:,.0f} rows/s", f"{clock((rows - counts.answered) / rows_per_s)} left"]
    parts.append(tokens(counts))
    if counts.failed:
        parts.append(f"{counts.failed:,} failed ({failures(counts)})")
    return "  ".join(parts)


def tokens(counts: Counts) -> str:
    """What it has cost so far."""
    return f"{counts.prompt_tokens:,} + {counts.output_tokens:,} tokens"


def failures(counts: Counts) -> str:
    """`cancelled 3, wrong_field 1`"""
    return ", ".join(f"{code} {count:,}" for code, count in sorted(counts.failures.items()))


def told(job: Job) -> dict[str, Any]:
    """A job for programs."""
    counts = job.counts
    return {
        "job": f"{job.namespace}/{job.job.id}",
        "state": job.state,
        "file": job.job.name,
        "rows": job.job.rows,
        "completed": counts.completed,
        "failed": counts.failed,
        "failures": counts.failures,
        "prompt_tokens": counts.prompt_tokens,
        "output_tokens": counts.output_tokens,
        "submitted_ms": job.job.submitted_ms,
        "deadline_ms": job.job.deadline_ms,
        "ended_ms": None if job.ended is None else job.ended.at_ms,
        "trouble": "" if job.progress is None or job.ended is not None else job.progress.trouble,
        "code": "" if job.ended is None else job.ended.code,
        "message": "" if job.ended is None else job.ended.message,
        "notes": msgspec.to_builtins(job.job.notes),
    }
