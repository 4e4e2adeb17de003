"""Begins a run on archived rows, or finds the one that is to go on: its rows are frozen when it begins.

A run keeps which rows they are, and reads them in the archive each time its process starts. So a row that is erased, or
older than the archive keeps it, is nowhere in a run's folder (docs/decisions/0032-archived-rows.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guideway.catalogue.archive.rows import Row
from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.data.archived import ArchivedExample, Frozen, Reading, Version, again, said
from guideway.training.data.corrections import digest_of, read_corrections
from guideway.training.data.drawing import Drawing
from guideway.training.data.examples import Example, Examples, read_examples
from guideway.training.data.records import invalid
from guideway.training.runs.events import RunEnded
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows


@dataclass(frozen=True)
class ArchiveAtHand:
    """The archive that a task names, as this process may read it."""

    rows: Callable[[str, str], Iterator[Row]]
    """(first day, last day), or empty for no bound → all rows. Raises Refusal where the store cannot be read."""
    days: Callable[[], Sequence[str]]
    """The days of which it holds rows, in order."""
    versions: Callable[[], Mapping[int, Version]]
    """The endpoint's versions. Raises Refusal(unknown_endpoint)."""
    is_kept: Callable[[], bool]
    """Whether the endpoint's results are archived now."""


@dataclass(frozen=True)
class Drawn:
    """Rows that a run begins with."""

    rows: list[ArchivedExample]
    examples: Examples
    frozen: Frozen


def draw(task: Task, folder: Path, archive: ArchiveAtHand) -> Drawn:
    """Choose rows, by what the task says. folder: its relative paths start here.

    Raises Refusal: `unknown_endpoint`; `invalid_data` where there are no rows, or too few; as `ArchiveAtHand` does.
    """
    wanted = _wanted(task)
    versions = archive.versions()
    corrections = corrections_of(task, folder)
    reading = Reading(wanted, task.output, versions, corrections)
    _check_days(wanted, archive)
    rows: list[ArchivedExample] = []
    drawing: Drawing | None = None

    def taken(known: frozenset[str]) -> list[Example]:
        nonlocal drawing
        drawing = Drawing(reading, wanted, known)
        for row in archive.rows(wanted.since, wanted.until):
            drawing.add(row)
        rows[:] = drawing.rows()
        if not rows:
            raise invalid(
                f"no row of the archive of {wanted.endpoint} is an example for this task ({drawing.seen} were looked "
                f"at: {said(drawing.left_out)}): correct data.archive, or the task's output"
            )
        return numbered(rows)

    examples = read_examples(task, folder, taken)
    assert drawing is not None, "an archived task's rows are asked for"
    known_answers = task.data.eval is not None or all(rows[one.number - 1].kept.corrected for one in examples.eval)
    frozen = Frozen(
        taken=drawing.taken(rows),
        template=reading.template,
        around=reading.around,
        corrections=digest_of(corrections) if corrections else "",
        order=examples.order_digest,
        known_answers=known_answers,
    )
    return Drawn(rows, examples, frozen)


def _check_days(wanted: ArchivedRows, archive: ArchiveAtHand) -> None:
    """Raises Refusal(invalid_data) where there are no rows at all, with what to do."""
    there = archive.days()
    if not there and not archive.is_kept():
        raise invalid(
            f"{wanted.endpoint} archives nothing: apply it with `archive: true`, let `guideway targets` run, and train "
            "when it has answered for a while"
        )
    if not there:
        raise invalid(
            f"the archive of {wanted.endpoint} is empty in this store: `guideway targets` fills it as results come; "
            "`guideway archive list` says what there is"
        )
    if not any(day >= wanted.since and (not wanted.until or day <= wanted.until) for day in there):
        raise invalid(
            f"the archive of {wanted.endpoint} has no results of the days that data.archive.since and until name: it "
            f"holds some of {there[0]} to {there[-1]}"
        )


def found_run(task: Task, task_folder: Path, runs: Path) -> RunFolder | None:
    """The newest run of this task below `runs`; None if there is none."""
    return next(_runs_of(task, task_folder, runs), None)


def open_run(task: Task, task_folder: Path, runs: Path) -> RunFolder | None:
    """The newest run of this task below `runs` that began with the corrections as they are, and has not ended."""
    corrections = corrections_of(task, task_folder)
    digest = digest_of(corrections) if corrections else ""
    for folder in _runs_of(task, task_folder, runs):
        frozen = folder.run().archived
        if frozen is not None and frozen.corrections == digest and not has_ended(folder):
            return folder
    return None


def _runs_of(task: Task, task_folder: Path, runs: Path) -> Iterator[RunFolder]:
    """The newest first. Their ids say which rows they began with, and nobody knows these beforehand."""
    found: list[tuple[float, RunFolder]] = []
    for file in runs.glob(f"{task.namespace}-{task.endpoint}-*/run.json"):
        folder = RunFolder(file.parent)
        try:
            run, at = folder.run(), file.stat().st_mtime
        except (Refusal, OSError):
            continue
        if run.task == task and run.folder == str(task_folder):
            found.append((at, folder))
    yield from (folder for _, folder in sorted(found, key=lambda one: one[0], reverse=True))


def has_ended(folder: RunFolder) -> bool:
    """Whether the run is complete."""
    return any(isinstance(event, RunEnded) for event in folder.events())


def once_more(folder: RunFolder, run: Run, task: Task, archive: ArchiveAtHand) -> Examples:
    """The rows with which a run began; none if it has ended, for nothing is left to do with them.

    Raises Refusal: `invalid_data` where some are no longer there; `invalid_setting` where they are no longer the same,
    because corrections or data.eval have changed.
    """
    if has_ended(folder):
        return Examples([], [], [], run.instruction, [])
    frozen, kept = run.archived, folder.rows()
    task_folder = Path(run.folder)
    corrections = corrections_of(task, task_folder)
    if frozen is None or frozen.corrections != (digest_of(corrections) if corrections else ""):
        raise _changed(folder)
    days = sorted(frozen.taken.days)
    rows = again(
        archive.rows(days[0], days[-1]),
        kept,
        around=frozen.around,
        output=task.output,
        corrections=corrections,
    )
    if missing := len(kept) - len(rows):
        raise invalid(
            f"{missing} of the {len(kept)} rows with which the run began are no longer in the archive of "
            f"{frozen.taken.endpoint}: they were erased, or are older than it keeps them. The run in {folder.path} "
            "cannot go on without them: remove it, or begin again in another folder with --out"
        )
    examples = read_examples(task, task_folder, lambda _known: numbered(rows))
    digests = (examples.data_digest, examples.eval_digest, examples.order_digest)
    if digests != (run.data_digest, run.eval_digest, frozen.order):
        raise _changed(folder)
    return examples


def corrections_of(task: Task, folder: Path) -> dict[str, str]:
    """Request id → answer, of the file that the task names; empty without one. Raises Refusal(invalid_data)."""
    wanted = _wanted(task)
    if wanted.corrections is None:
        return {}
    return read_corrections(folder / wanted.corrections, task.data, task.output)


def numbered(rows: Sequence[ArchivedExample]) -> list[Example]:
    """As a run's rows.jsonl has them."""
    return [Example(number, one.text, one.answer) for number, one in enumerate(rows, 1)]


def _wanted(task: Task) -> ArchivedRows:
    assert task.data.archived is not None, "its rows are archived"
    return task.data.archived


def _changed(folder: RunFolder) -> Refusal:
    return Refusal(
        FailureCode.INVALID_SETTING,
        f"the run in {folder.path} began with other corrections, or with other rows in data.eval or another order of "
        "them: put them back, or begin again in another folder with --out",
    )
