"""`guideway studio …`: from examples to a published endpoint. Here: `run`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, out, print_json, run
from guideway.cli.studio import evaluation, jobs, publishing, versions
from guideway.cli.studio.progress import Watch
from guideway.cli.studio.publishing import OutFolder
from guideway.schemas.failures import Refusal
from guideway.settings import Settings
from guideway.training.publishing import decision
from guideway.training.runs.begin import Begun
from guideway.training.runs.interruption import Interrupted
from guideway.training.runs.task import read_task
from guideway.usecases.studio.run_studio import carry_out, prepare


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="From examples to a published endpoint.", no_args_is_help=True)
    group.command("run")(run_)
    publishing.add_to(group)
    versions.add_to(group)
    evaluation.add_to(group)
    jobs.add_to(app, group)
    app.add_typer(group, name="studio")


def run_(
    task_file: Annotated[Path, typer.Argument(metavar="TASK", help="The task's file (YAML).")],
    out_folder: OutFolder = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Find prompts, train every method of the task, compare them all, write a report.

    The run's folder is runs/ID in GUIDEWAY_HOME unless --out names another. Ctrl-C ends it within seconds, and the same
    command goes on with it, as it does after a crash.
    """
    settings = Settings.from_environ()
    prepared = run(prepare(settings, read_task(task_file), task_file.parent, out=out_folder))
    begun = prepared.begun
    interrupts.keeps(f"what is done is kept in {begun.folder.path}; the same command goes on with it")
    should_end = _end_on_signal()
    with Watch(as_json=as_json) as watch:
        try:
            carry_out(settings, prepared, device=device, emit=watch, should_end=should_end)
        except (Interrupted, KeyboardInterrupt):
            raise typer.Exit(130) from None
    if as_json:
        print_json({"event": "report", "folder": str(begun.folder.path)})
    else:
        out.print(f"\n{begun.folder.path}\n{_what_next(begun, task_file)}")


def _what_next(begun: Begun, task_file: Path) -> str:
    try:
        chosen = decision.choose_publication(begun.folder.events(), begun.run, size=None, method=None, anyway=False)
    except Refusal as refusal:
        return refusal.message
    return f"Next, for {chosen.scored.method}:  guideway studio publish {task_file}"


def _end_on_signal() -> Callable[[], bool]:
    """Whether somebody asks the run to end: by Ctrl-C, which waits for seconds, or by SIGTERM, which does not hurry."""
    ended = False

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    return lambda: ended
