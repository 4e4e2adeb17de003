"""`guideway studio evaluate | report`: figures without training, and a run's report made again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, out, print_json
from guideway.cli.studio.progress import Watch
from guideway.cli.studio.publishing import OutFolder, RunPlace
from guideway.settings import Settings
from guideway.training.runs.task import read_task
from guideway.usecases.extras import importing
from guideway.usecases.studio.publish import folder_of
from guideway.usecases.studio.run_studio import evaluate


def add_to(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("evaluate")(evaluate_)
    group.command("report")(report)


def evaluate_(
    task_file: Annotated[Path, typer.Argument(metavar="TASK", help="The task's file (YAML).")],
    size: Annotated[str | None, typer.Option(help="On which model size; default: the task's first.")] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Say how the endpoint as it is now does on the task's evaluation rows, beside the bare model. Trains nothing."""
    interrupts.keeps("nothing of an evaluation is kept")
    settings = Settings.from_environ()
    task = read_task(task_file)
    size = size or task.model_sizes[0]
    comparison = evaluate(settings, task, task_file.parent, size=size, device=device)
    from guideway.training.evaluation.comparison import scored_events

    with Watch(as_json=as_json) as show:
        for event in scored_events(comparison, size=size, at=time.time()):
            show(event)


def report(place: RunPlace, out_folder: OutFolder = None, as_json: AsJson = False) -> None:
    """Make a run's report.html and README.md, as far as the run has come; a run makes them at its end by itself."""
    folder = folder_of(place, Settings.from_environ(), out_folder)
    with importing("studio"):
        from guideway.training.evaluation.report import write_report

    page = write_report(folder)
    if as_json:
        print_json({"report": str(page)})
    else:
        out.print(str(page))
