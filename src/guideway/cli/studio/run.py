"""`guideway studio …`: from examples to a published endpoint. Here: `run`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, out, print_json
from guideway.cli.studio import evaluation, jobs, publishing, versions
from guideway.cli.studio.publishing import OutFolder, catalogue_if_there
from guideway.schemas.failures import Refusal
from guideway.settings import Settings
from guideway.training.publishing import decision
from guideway.training.runs.begin import Begun, begin, models_of
from guideway.training.runs.task import read_task
from guideway.usecases.extras import importing
from guideway.usecases.retrieval import retrieval_context
from guideway.usecases.supervise import end_with_parent

if TYPE_CHECKING:
    from guideway.training.evaluation.evaluator import Subject


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
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Find prompts, train every method of the task, compare them all, write a report.

    The run's folder is runs/ID in GUIDEWAY_HOME unless --out names another. Ctrl-C ends it within seconds, and the same
    command goes on with it, as it does after a crash.
    """
    if with_parent:
        end_with_parent()
    settings = Settings.from_environ()
    task = read_task(task_file)
    begun = begin(task, task_file.parent, runs=settings.home / "runs", out=out_folder)
    catalogue = catalogue_if_there(settings, needed=task.models is None or task.retrieval is not None)
    models = models_of(task, task_file.parent, catalogue)
    store = ArtefactStore(settings.store)
    store.check_writable()
    interrupts.keeps(f"what is done is kept in {begun.folder.path}; the same command goes on with it")
    # Only now: torch and transformers take seconds.
    with importing("studio"):
        from guideway.cli.studio.progress import Watch
        from guideway.training.evaluation.present import present_subject
        from guideway.training.runs.interruption import Interrupted
        from guideway.training.runs.machine import Machine
        from guideway.training.runs.run import carry_out

    def present(size: str) -> Subject | None:
        if catalogue is None:
            return None
        return present_subject(catalogue, task, models[size], store=store, cache=settings.artefact_cache)

    context = retrieval_context(task, catalogue, settings, began_with=begun.folder.sets)
    should_end = _end_on_signal()
    with Watch(as_json=as_json) as watch:
        try:
            machine = Machine(settings.model_cache, device)
            carry_out(begun, models, machine, emit=watch, should_end=should_end, present=present, context=context)
        except (Interrupted, KeyboardInterrupt):
            raise typer.Exit(130) from None
    if as_json:
        print_json({"event": "report", "folder": str(begun.folder.path)})
    else:
        out.print(f"\n{begun.folder.path}\n{_what_next(begun, task_file)}")


def _what_next(begun: Begun, task_file: Path) -> str:
    try:
        chosen = decision.choose(begun.folder.events(), begun.run, size=None, method=None, anyway=False)
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
