"""`guideway replay`: past inputs under an endpoint as it is and as it might be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guideway.cli.console import interrupts
from guideway.cli.console.output import LINE_EVERY_S, AsJson, err, out, print_json, print_table, run
from guideway.settings import Settings
from guideway.usecases.replay import run as replays
from guideway.usecases.replay.asking import IN_FLIGHT, Watch
from guideway.usecases.replay.trial import split_changes


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("replay")(replay)


def replay(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=VALUE",
            help="What is new: guidance=NAMESPACE/NAME@VERSION,NAMESPACE/NAME (or none), instruction=TEXT (or @FILE), "
            "model_size=NAME, output=YAML (or @FILE), retrieval=NAMESPACE/SET@VERSION, calibration=off. Several.",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option("--from", metavar="archive|topic|FILE", help="Where the rows come from; a FILE may have answers."),
    ] = "archive",
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 2026-11-29, 2026-11-29T08:00Z, 24h, 7d.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, max=100_000, help="So many rows at most, drawn by chance.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same number draws the same rows.")] = 1,
    text: Annotated[str, typer.Option("--text", help="The column of the text, in a FILE.")] = "text",
    label: Annotated[str, typer.Option("--label", help="The column of the right answer, in a FILE.")] = "label",
    place: Annotated[
        Path | None, typer.Option("-o", "--out", help="Its folder; default: one in GUIDEWAY_HOME.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=1000, help="Requests that wait at a time.")] = IN_FLIGHT,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Take the place of another replay of this endpoint.")
    ] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Only remove what a killed replay has left.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask an endpoint's past inputs again, as it is and as it might be, and compare: nobody else sees any of it.

    guideway replay /shop/mood --from archive --since 24h --with guidance=shop/mood-soft-prompt@3

    guideway replay /shop/mood --from rows.jsonl --with instruction=@new.txt

    Interrupted, the same command goes on. It needs the right to apply in the namespace.
    """
    settings = Settings.from_environ()
    if clean:
        _clean(settings, address, as_json=as_json)
        return
    wanted = split_changes(changes or [])
    order = replays.Order(
        address=address, source=source, changes=wanted, since=since, sample=sample, seed=seed, text=text, label=label
    )
    folder, plan = run(replays.begin(settings, order, place))
    interrupts.keeps(f"what is answered is kept in {folder.path}; the same command goes on")
    if not as_json:
        err.print(f"{plan.rows} rows, each asked twice; in {folder.path}")
        for why, rows in plan.question.left_out.items():
            err.print(f"left out: {rows} {why}")
    with progress(as_json=as_json) as watch:
        run(replays.carry_out(settings, folder, plan, watch, in_flight=in_flight, anyway=anyway))
    page = replays.finish(folder, plan)
    print_compared(folder.comparison(), page, as_json=as_json)


def _clean(settings: Settings, address: str, *, as_json: bool) -> None:
    gone = run(replays.clean(settings, address))
    if as_json:
        print_json({"removed": gone})
    else:
        out.print(f"removed {', '.join(gone)}" if gone else "there was nothing to remove")


def print_compared(compared: dict[str, object], page: Path, *, as_json: bool) -> None:
    """The figures, the verdict, and where the report is."""
    from guideway.training.replays.comparison import Compared
    from guideway.training.replays.report import signed, told

    if as_json:
        print_json(compared | {"report": str(page)})
        return
    made = msgspec.convert({name: one for name, one in compared.items() if name != "question"}, Compared)
    rows: list[Sequence[object]] = [
        (one.name.replace("_", " "), told(one, "now"), told(one, "new"), signed(one)) for one in made.figures
    ]
    if made.agreement is not None:
        rows.insert(0, ("agreement", "", str(made.agreement), ""))
    print_table(("figure", "now", "new", "difference"), rows)
    out.print(made.verdict)
    out.print(str(page))


class _Bar(Watch):
    """A bar where somebody watches; else a line now and then."""

    def __init__(self, bar: Progress, *, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet
        self._done = self._of = 0
        self._said_at = time.monotonic()

    def begun(self, done: int, of: int) -> None:
        self._done, self._of = done, of
        self._task = self._bar.add_task("answers", total=of, completed=done)

    def answered(self) -> None:
        self._done += 1
        self._bar.advance(self._task)
        if self._bar.disable and not self._quiet and time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            err.print(f"{self._done} of {self._of} answers")

    def say(self, line: str) -> None:
        err.print(line)


@contextmanager
def progress(*, as_json: bool) -> Iterator[Watch]:
    """A bar on standard error."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        yield _Bar(bar, quiet=as_json)
