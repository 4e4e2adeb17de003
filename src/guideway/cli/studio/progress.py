"""A run as people watch it: a bar for the method that is trained, a line for what has come to its end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, Progress, TextColumn

from guideway.cli.console import interrupts
from guideway.cli.console.output import LINE_EVERY_S, clock, err, out, print_json, print_table
from guideway.training.data.archived import said
from guideway.training.runs.events import (
    Evaluated,
    LeftOut,
    MethodStarted,
    Planned,
    PromptScored,
    Resumed,
    RunCancelled,
    RunEvent,
    RunStarted,
    Scored,
    Scoring,
    Step,
    Stopped,
    model_size_of,
)
from guideway.usecases.extras import importing

if TYPE_CHECKING:
    from rich.progress import TaskID

_SHARED: Final = " (all folds of a method share its time: raise stop.max_minutes, or set data.folds: 0)"
_RULES: Final = {
    "max_steps": "all steps done",
    "max_epochs": "data used up",
    "max_minutes": "time is up",
    "loss_below": "loss low enough",
    "converged": "no longer better",
}


class Watch:
    """`with Watch() as watch:` – then `watch(event)` for each event, live or from a file. With JSON: event by event."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[what]}", markup=False),
        )
        self._bars = Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal)
        self._bar: TaskID | None = None
        self._said_at = 0.0
        self._validation = ""
        self._scored: list[Scored] = []

    def __enter__(self) -> Watch:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._scored:
            _print_scored(self._scored)
            if said := _said_of_few(self._scored[0].rows):
                out.print(said)

    def __call__(self, event: RunEvent) -> None:
        if self._as_json:
            print_json(event)
            return
        if isinstance(event, MethodStarted | Stopped | Scored | RunCancelled):
            self._end_bar()
        if line := _line(event):
            _say(line)
        match event:
            case MethodStarted():
                self._validation = ""
            case Evaluated():
                self._validation = f"  validation {event.loss:.3f}"
            case Step():
                self._step(event)
            case Scoring():
                what = f"{event.done}/{event.of} rows answered"
                self._show(f"{event.size}/{event.method}", what, event.done, event.of)
            case Scored() if event.size == model_size_of(event.size):
                self._scored.append(event)

    def _step(self, event: Step) -> None:
        what = (
            f"{event.step}/{event.of}  loss {event.loss:.3f}{self._validation}  {event.tokens_per_s:.0f} tokens/s  "
            f"{clock(event.left_s)} left"
        )
        self._show(f"{event.size}/{event.method}", what, event.step, event.of)

    def _show(self, name: str, what: str, done: int, of: int) -> None:
        if self._bar is None:
            self._bar = self._bars.add_task(name, total=of, what=what)
        self._bars.update(self._bar, description=name, completed=done, total=of, what=what)
        if self._bars.disable and time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            _say(f"{name}: {what}")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


def _line(event: RunEvent) -> str:
    """What stays on the screen of an event; empty for what only moves the bar."""
    line = ""
    match event:
        case RunStarted():
            line = (
                f"{event.run}: {event.train_rows} rows to learn from, {event.validation_rows} to validate on, "
                f"{event.eval_rows} to report on{_archived(event)}{_few(event)}"
            )
        case PromptScored(chosen=True):
            # The lines after the first are examples, which are rows of the data.
            first = event.prompt.partition("\n")[0]
            line = f"{event.size}: best text prompt ({event.metric} {event.value:.3f}): {first}"
        case MethodStarted():
            line = f"{event.size}/{event.method}: {event.trainable_parameters:,} parameters to train"
        case Resumed():
            line = f"{event.size}/{event.method}: goes on after step {event.step}"
        case Planned():
            line = (
                f"{event.size}/{event.method}: max_minutes leaves time for about {event.last_step} of {event.of} "
                f"steps; the schedule is made for these{_SHARED if event.size != model_size_of(event.size) else ''}"
            )
        case Stopped():
            of = f" of {event.of}" if event.rule == "max_minutes" and event.of else ""
            line = (
                f"{event.size}/{event.method}: {_RULES.get(event.rule, event.rule)} at step {event.step}{of}; best was "
                f"step {event.best_step}, validation loss {event.validation_loss:.3f}; {clock(event.elapsed_s)}, "
                f"{event.artefact_bytes:,} bytes"
            )
        case LeftOut():
            line = f"{event.size}: not compared with {event.method} ({event.code}: {event.message})"
        case RunCancelled() if not interrupts.asked():
            line = "ended; the same command goes on with it"
    return line


def _archived(event: RunStarted) -> str:
    if (taken := event.archived) is None:
        return ""
    left_out = f"\nleft out: {said(taken.left_out)}" if taken.left_out else ""
    return f"\n{taken.told}. {taken.whose_answers}{left_out}"


def _few(event: RunStarted) -> str:
    folds = (
        f"\n{event.folds} folds: every row is reported on by a training that has not seen it, and what is published is "
        "trained on all of them"
        if event.folds
        else ""
    )
    said = _said_of_few(event.eval_rows)
    if event.class_weights:
        weights = ", ".join(f"{label} {weight:.2f}" for label, weight in event.class_weights.items())
        folds += f"\nrows of rare labels count more in training: {weights} (schedule.class_weights)"
    return folds + (f"\n{said}" if said else "")


def _said_of_few(rows: int) -> str:
    with importing("studio"):
        from guideway.training.evaluation.intervals import few_rows

    return few_rows(rows)


def _print_scored(scored: list[Scored]) -> None:
    rows = []
    for one in scored:
        over = f"{one.over_bare[0]:+.3f} [{one.over_bare[1]:+.3f}, {one.over_bare[2]:+.3f}]" if one.over_bare else ""
        interval = f"[{one.low:.3f}, {one.high:.3f}]"
        rows.append((one.size, one.method, f"{one.value:.3f}", interval, over, one.rows))
    print_table(("size", "what", scored[0].metric, "95 % interval", "over bare", "rows"), rows)


def _say(line: str) -> None:
    err.print(line)
