"""`guideway studio evaluate | report`: figures without training, and a run's report made again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, out, print_json
from guideway.cli.studio.publishing import OutFolder, RunPlace, catalogue_if_there, folder_of
from guideway.schemas.calibration import automatic
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.training.data.examples import Examples, read_examples
from guideway.training.publishing.decision import present_endpoint
from guideway.training.publishing.promotion import score_of
from guideway.training.runs.begin import models_of
from guideway.training.runs.task import BARE, Task, read_task
from guideway.usecases.extras import importing
from guideway.usecases.retrieval import retrieval_context


def add_to(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("evaluate")(evaluate)
    group.command("report")(report)


def evaluate(
    task_file: Annotated[Path, typer.Argument(metavar="TASK", help="The task's file (YAML).")],
    size: Annotated[str | None, typer.Option(help="On which model size; default: the task's first.")] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Say how the endpoint as it is now does on the task's evaluation rows, beside the bare model. Trains nothing."""
    interrupts.keeps("nothing of an evaluation is kept")
    settings = Settings.from_environ()
    task, folder = read_task(task_file), task_file.parent
    examples = read_examples(task, folder)
    catalogue = catalogue_if_there(settings, needed=True)
    assert catalogue is not None, "where it is needed and not there, that is refused"
    models = models_of(task, folder, catalogue)
    size = size or task.model_sizes[0]
    if size not in models:
        raise Refusal(FailureCode.INVALID_SETTING, f"the task has no model size {size!r}; it has {', '.join(models)}")
    # Only now: torch and transformers take seconds.
    with importing("studio"):
        from guideway.cli.studio.progress import Watch
        from guideway.training.evaluation.comparison import compare, scored_events
        from guideway.training.evaluation.evaluator import Evaluator, Subject
        from guideway.training.evaluation.present import present_subject
        from guideway.training.runs.machine import Machine, load_model
        from guideway.workers.engine.text.prompt import PromptLayout

    store = ArtefactStore(settings.store)
    present = present_subject(catalogue, task, models[size], store=store, cache=settings.artefact_cache)
    if present is None:
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT,
            f"there is no {task.address} of this output, this retrieval and the present model of size {size}: publish "
            "it first, or correct the task",
        )
    _check_unseen(catalogue, task, examples)
    bare = Subject(
        label=BARE,
        instructions=[examples.instruction],
        output=task.output,
        generation=task.generation,
        calibration=automatic(task.output, is_taught=task.retrieval is not None),
    )
    context = retrieval_context(task, catalogue, settings)
    base = load_model(models[size], Machine(settings.model_cache, device), models[size].dtype)
    rows = context.for_rows(examples.eval, PromptLayout(base.tokenizer)) if context else examples.eval
    evaluator = Evaluator(base, max_context_tokens=models[size].max_context_tokens)
    comparison = compare([evaluator.evaluate(one, rows) for one in (bare, present)])
    with Watch(as_json=as_json) as show:
        for event in scored_events(comparison, size=size, at=time.time()):
            show(event)


def _check_unseen(catalogue: Catalogue, task: Task, examples: Examples) -> None:
    """Where rows are so few that none are kept out, those to report on may be those that were learnt from."""
    lineage = score_of(present_endpoint(catalogue, task.namespace, task.endpoint), catalogue)
    if examples.folds and lineage is not None and lineage.data == examples.data_digest:
        raise Refusal(
            FailureCode.INVALID_DATA,
            f"{task.address} was trained on all of these {len(examples.eval)} rows, so that figures would be too good: "
            "name rows of their own in data.eval; how its run did by folds, `guideway studio versions` shows",
        )


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
