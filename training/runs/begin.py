"""Begins a run, or resumes it: its task, its examples, its folder. What can be refused early is refused here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from guideway.catalogue.bounds import check_answer_fits, check_passages_fit, check_text_fits
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.training.data.examples import Examples, read_examples
from guideway.training.runs import archived_run
from guideway.training.runs.archived_run import ArchiveAtHand
from guideway.training.runs.code_version import code_version
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import Task
from guideway.training.runs.task_methods import virtual_tokens


@dataclass(frozen=True)
class Begun:
    """A run that is ready to be carried out or resumed."""

    folder: RunFolder
    run: Run
    examples: Examples
    sharing: int = 1
    """How many trainings share the time of a method: those of the folds, and the published one."""

    def of_fold(self, fold: int) -> Begun:
        """The same run with the rows of one fold."""
        task = self.run.task
        rows = self.examples.of_fold(fold, task.data, seed=task.schedule.seed, rule=task.output)
        return replace(self, examples=rows)


def begin(
    task: Task, task_folder: Path, *, runs: Path, out: Path | None = None, archive: ArchiveAtHand | None = None
) -> Begun:
    """Read the examples, and find or make the run's folder: `out`, or one below `runs` that is named after the task.

    The same task on the same rows in the same order is the same run, and is resumed. archive: needed for a task of
    archived rows. An archive grows meanwhile, so such a run is found by its task and goes on with the rows that it
    began with; when it has ended, the same task begins another one, unless the archive has the same rows still.

    Raises: Refusal `invalid_data`; `invalid_setting` if the folder cannot be written or holds another run.
    """
    task, task_folder = _as_read(task), task_folder.absolute()
    if archive is None:
        return _begun(task, task_folder, runs, out, read_examples(task, task_folder), None)
    if out is None:
        there = archived_run.open_run(task, task_folder, runs)
    else:
        there = RunFolder(out) if RunFolder(out).exists else None
    if there is not None:
        run = there.run()
        if run.task != task:
            raise _holds_another(there.path, run)
        examples = archived_run.once_more(there, run, task, archive)
        return Begun(there, run, examples, sharing=1 + len(examples.folds))
    drawn = archived_run.draw(task, task_folder, archive)
    return _begun(task, task_folder, runs, out, drawn.examples, drawn)


def folder_named(task: Task, task_folder: Path, *, runs: Path, out: Path | None = None) -> RunFolder:
    """The folder of a task's run that is there: `out`, or the newest one below `runs`.

    Raises: Refusal `invalid_data`; `invalid_setting` where there is no such run.
    """
    task, task_folder = _as_read(task), task_folder.absolute()
    if task.data.archive is None:
        return begin(task, task_folder, runs=runs, out=out).folder
    there = archived_run.found_run(task, task_folder, runs) if out is None else RunFolder(out)
    if there is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"there is no run of this task in {runs}: carry it out with `guideway studio run`, or name its folder",
        )
    if (run := there.run()).task != task:
        raise _holds_another(there.path, run)
    return there


def _as_read(task: Task) -> Task:
    """As read from a file: a program may have written 1, where a file's task has 1.0."""
    return msgspec.json.decode(msgspec.json.encode(task), type=Task)


def _begun(
    task: Task, task_folder: Path, runs: Path, out: Path | None, examples: Examples, drawn: archived_run.Drawn | None
) -> Begun:
    identity = hashlib.sha256(
        msgspec.json.encode(
            (task, examples.data_digest, examples.eval_digest, examples.order_digest), order="deterministic"
        )
    ).hexdigest()
    run = Run(
        id=f"{task.namespace}-{task.endpoint}-{identity[:8]}",
        task=task,
        folder=str(task_folder),
        instruction=examples.instruction,
        data_digest=examples.data_digest,
        eval_digest=examples.eval_digest,
        code_version=code_version(),
        archived=None if drawn is None else drawn.frozen,
    )
    folder = RunFolder(out or runs / run.id)
    if not folder.exists:
        folder.create(run, [] if drawn is None else [one.kept for one in drawn.rows])
    elif (there := folder.run()).id != run.id:
        raise _holds_another(folder.path, there)
    else:
        run = there
    return Begun(folder, run, examples, sharing=1 + len(examples.folds))


def _holds_another(path: Path, there: Run) -> Refusal:
    return Refusal(
        FailureCode.INVALID_SETTING,
        f"{path} holds run {there.id} of another task or of other data: name another folder with --out",
    )


def models_of(task: Task, task_folder: Path, catalogue: Catalogue | None) -> dict[str, Model]:
    """Model size → its model, from the task's `models` file, else from the catalogue.

    Raises: Refusal `unknown_model_size`, which names the known sizes; `invalid_setting` where the task's answers and
    passages leave no room for a text.
    """
    found: dict[str, Model] = {}
    if task.models is not None:
        found = _models([source.manifest for source in read_manifests(task_folder / task.models)])
    elif catalogue is not None:
        found = _models([manifest for _, manifest in catalogue])
    for size in task.model_sizes:
        if size not in found:
            where = f"in {task.models}" if task.models is not None else "in the catalogue"
            sizes = ", ".join(sorted(found)) or "none"
            raise Refusal(
                FailureCode.UNKNOWN_MODEL_SIZE,
                f"there is no model size {size!r} {where}; there are: {sizes}. Correct model_sizes, or add "
                "its manifest",
            )
        _check_lengths(task, found[size])
    return {size: found[size] for size in task.model_sizes}


def _check_lengths(task: Task, model: Model) -> None:
    """Said before all training: the endpoint would be refused for it."""
    try:
        check_answer_fits("generation.max_tokens", task.generation.max_tokens, model)
        if task.retrieval is not None:
            check_passages_fit(task.retrieval, task.generation, model)
        passages, answer = task.retrieval.max_tokens if task.retrieval else 0, task.generation.max_tokens
        for virtual in map(virtual_tokens, task.methods):
            check_text_fits(virtual, len(task.instruction), passages=passages, answer=answer, model=model)
    except ValueError as error:
        raise Refusal(FailureCode.INVALID_SETTING, f"the task's {error}") from None


def _models(manifests: Iterable[object]) -> dict[str, Model]:
    return {manifest.name: manifest for manifest in manifests if isinstance(manifest, Model)}
