"""Runs of the studio: a task carried out, its endpoint evaluated as it is, a task submitted as a job.

What trains or evaluates blocks for as long as that takes: from an event loop, call it in a thread or in a process.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.calibration import automatic
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.settings import Settings
from guideway.training.data.examples import Examples, read_examples, read_known
from guideway.training.jobs import job_topics
from guideway.training.jobs.messages import Job, with_absolute_paths
from guideway.training.publishing.decision import present_endpoint
from guideway.training.publishing.promotion import score_of
from guideway.training.runs.archived_run import draw
from guideway.training.runs.begin import Begun, begin, models_of
from guideway.training.runs.events import RunEvent
from guideway.training.runs.interruption import Interrupted, ShouldEnd, never
from guideway.training.runs.task import BARE, Task, read_task
from guideway.usecases.extras import importing
from guideway.usecases.lookup import catalogue_if_there, catalogue_of
from guideway.usecases.retrieval import retrieval_context
from guideway.usecases.studio.archive_rows import archive_of

if TYPE_CHECKING:
    from guideway.training.evaluation.comparison import Comparison
    from guideway.training.evaluation.evaluator import Subject


@dataclass(frozen=True)
class Prepared:
    """A run that is begun, with what it needs from outside its folder."""

    begun: Begun
    models: dict[str, Model]
    """By model size."""
    catalogue: Catalogue | None
    """None: the task needs none, and there is none."""


async def prepare(settings: Settings, task: Task, folder: Path, *, out: Path | None = None) -> Prepared:
    """Read the task's examples, begin its run or find it, and look up its models. Nothing heavy is imported yet.

    folder: where the task's relative paths begin. out: the run's folder; default: by its id, in GUIDEWAY_HOME.

    Raises Refusal: all that can be refused before training, a store that cannot be written included.
    """
    archive, catalogue = None, None
    if task.data.archive is not None:
        archive, catalogue = await archive_of(settings, task)
    begun = begin(task, folder, runs=settings.home / "runs", out=out, archive=archive)
    if catalogue is None:
        is_needed = task.models is None or task.retrieval is not None
        catalogue = await (catalogue_of(settings) if is_needed else catalogue_if_there(settings))
    models = models_of(task, folder, catalogue)
    _check_sets(task, catalogue)
    ArtefactStore(settings.store, task.namespace).check_writable()
    return Prepared(begun, models, catalogue)


def carry_out(
    settings: Settings,
    prepared: Prepared,
    *,
    device: str = "cpu",
    emit: Callable[[RunEvent], None] = lambda _: None,
    should_end: ShouldEnd = never,
) -> None:
    """Find prompts, train every method of the task, compare them all, write a report: what is not done yet of it.

    Raises Refusal; Interrupted where it `should_end`. What is done stays in the run's folder.
    """
    # Only now: torch and transformers take seconds.
    with importing("studio"):
        from guideway.training.evaluation.present import present_subject
        from guideway.training.runs.machine import Machine
        from guideway.training.runs.run import carry_out as carry_out_run

    begun, models, catalogue = prepared.begun, prepared.models, prepared.catalogue
    task, store = begun.run.task, ArtefactStore(settings.store)

    def present(size: str) -> Subject | None:
        if catalogue is None:
            return None
        return present_subject(catalogue, task, models[size], store=store, cache=settings.artefact_cache)

    context = retrieval_context(task, catalogue, settings, began_with=begun.folder.sets)
    if should_end():
        # What comes next is told in the run's events, and would be told again.
        raise Interrupted
    machine = Machine(settings.model_cache, device)
    carry_out_run(begun, models, machine, emit=emit, should_end=should_end, present=present, context=context)


def evaluate(settings: Settings, task: Task, folder: Path, *, size: str, device: str = "cpu") -> Comparison:
    """How the task's endpoint does as it is on the task's evaluation rows, beside the bare model. Trains nothing.

    folder: where the task's relative paths begin. Raises Refusal: `unknown_endpoint` where there is no such endpoint of
    this output, retrieval and size; `invalid_data` for rows that it was, or may have been, trained on.
    """
    examples = read_examples(task, folder) if task.data.archive is None else read_known(task, folder)
    catalogue = asyncio.run(catalogue_of(settings))
    models = models_of(task, folder, catalogue)
    if size not in models:
        raise Refusal(FailureCode.INVALID_SETTING, f"the task has no model size {size!r}; it has {', '.join(models)}")
    # Only now: torch and transformers take seconds.
    with importing("studio"):
        from guideway.training.evaluation.comparison import compare
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
    return compare([evaluator.evaluate(one, rows) for one in (bare, present)])


async def submit(settings: Settings, task_file: Path, *, publish: bool) -> Job:
    """Put a task on the training topic of its namespace, for a trainer to carry out.

    publish: whether what comes of it is published. Raises Refusal: what is wrong with the task and its data is said
    here and now, and not by a trainer in an hour.
    """
    task = with_absolute_paths(read_task(task_file), task_file.parent)
    if task.data.archive is None:
        read_examples(task, task_file.parent)
    else:
        archive, _ = await archive_of(settings, task)
        draw(task, task_file.parent, archive)
    if task.retrieval is not None:
        _check_sets(task, await catalogue_of(settings))
    job = Job(id=f"{task.namespace}-{task.endpoint}-{uuid.uuid4().hex[:8]}", task=task, publish=publish)
    cluster = settings.answering_cluster()
    await make_topics(cluster, topics.training(task.namespace), without_right=True)
    await job_topics.submit(cluster, job)
    return job


def _check_sets(task: Task, catalogue: Catalogue | None) -> None:
    """Raises Refusal of a set that is not there, or not shared with the task's namespace."""
    if task.retrieval is None or catalogue is None:
        return
    for name in task.retrieval.sets:
        catalogue.retrieval_set(name, for_namespace=task.namespace)


def _check_unseen(catalogue: Catalogue, task: Task, examples: Examples) -> None:
    """Where rows are so few that none are kept out, those to report on may be those that were learnt from."""
    lineage = score_of(present_endpoint(catalogue, task.namespace, task.endpoint), catalogue)
    if examples.folds and lineage is not None and lineage.data == examples.data_digest:
        raise Refusal(
            FailureCode.INVALID_DATA,
            f"{task.address} was trained on all of these {len(examples.eval)} rows, so that figures would be too good: "
            "name rows of their own in data.eval; how its run did by folds, `guideway studio versions` shows",
        )
