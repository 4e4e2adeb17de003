"""Begins a run, or resumes it: its task, its examples, its folder. What can be refused early is refused here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.training.data.examples import Examples, read_examples
from guideway.training.runs.code_version import code_version
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import Task


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


def begin(task: Task, task_folder: Path, *, runs: Path, out: Path | None = None) -> Begun:
    """Read the examples, and find or make the run's folder: `out`, or one below `runs` that is named after the task.

    The same task on the same rows in the same order is the same run, and is resumed.

    Raises: Refusal `invalid_data`; `invalid_setting` if the folder cannot be written or holds another run.
    """
    # As read from a file: a program may have written 1, where a file's task has 1.0.
    task = msgspec.json.decode(msgspec.json.encode(task), type=Task)
    task_folder = task_folder.absolute()
    examples = read_examples(task, task_folder)
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
    )
    folder = RunFolder(out or runs / run.id)
    if not folder.exists:
        folder.create(run)
    elif (there := folder.run()).id != run.id:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{folder.path} holds run {there.id} of another task or of other data: name another folder with --out",
        )
    else:
        run = there
    return Begun(folder, run, examples, sharing=1 + len(examples.folds))


def models_of(task: Task, task_folder: Path, catalogue: Catalogue | None) -> dict[str, Model]:
    """Model size → its model, from the task's `models` file, else from the catalogue.

    Raises: Refusal `unknown_model_size`, which names the known sizes.
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
    return {size: found[size] for size in task.model_sizes}


def _models(manifests: Iterable[object]) -> dict[str, Model]:
    return {manifest.name: manifest for manifest in manifests if isinstance(manifest, Model)}
