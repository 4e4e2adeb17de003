"""Whether a job keeps to the namespace that it came from."""

from __future__ import annotations

from pathlib import Path

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import training_topic
from guideway.training.data.archived import foreign_archive
from guideway.training.jobs.messages import Job


def refusal_of(job: Job, owner: str, data: Path | None) -> Refusal | None:
    """Why a job from the topic of namespace `owner` is not carried out; None if it may be.

    What it names of other namespaces, retrieval sets above all, is looked up with the rights of its own.
    data: folder in which each namespace has a folder of its own, with all files that its jobs may read; None: any.
    """
    task = job.task
    if task.namespace != owner:
        return Refusal(
            FailureCode.NOT_ALLOWED,
            f"the task is of namespace {task.namespace[:63]}, and {training_topic(owner)} takes jobs of {owner} "
            "only: submit it with the rights of its own namespace",
        )
    if (refusal := foreign_archive(task)) is not None:
        return refusal
    if data is None:
        return None
    if task.models is not None:
        return Refusal(
            FailureCode.NOT_ALLOWED,
            "the task brings models of its own, and models here are the platform's: leave `models` out, and name "
            "model sizes that are there",
        )
    own = data / owner
    for file in task.data.files:
        if not _is_within(Path(file), own):
            return Refusal(
                FailureCode.NOT_ALLOWED,
                f"a job of namespace {owner} reads files in {own} only: put its data there",
            )
    return None


def _is_within(file: Path, folder: Path) -> bool:
    try:
        # Links are followed: one that leads out would lead anywhere.
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False
