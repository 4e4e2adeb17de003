"""Reads and checks the examples of a task. All faults of a file are reported at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.schemas.output import Boolean, Choice, OutputRule
from guideway.schemas.request import Part
from guideway.training.data import splits
from guideway.training.data.answers import spelled
from guideway.training.data.columns import KNOWN_COLUMNS, conversation_of, group_of, has_instruction, is_alpaca
from guideway.training.data.conversations import Conversation, told_with_text
from guideway.training.data.givable import check_givable
from guideway.training.data.records import Findings, invalid, read_records
from guideway.training.data.splits import key_of
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data

LEAST_TRAIN_ROWS: Final = 8


class Example(msgspec.Struct, frozen=True):
    """One example."""

    number: int
    """Line of a JSONL file, element of a JSON array, record of a CSV file, line of a run's rows.jsonl; from 1 on."""
    text: str
    """The text that an event would have."""
    answer: str
    """What the model must write, as the output rule spells it."""
    group: str = ""
    """Rows of one group are all trained on or all kept out; empty: a group of its own."""
    context: list[Part] = []
    """The passages that retrieval puts before the text."""


@dataclass(frozen=True)
class Examples:
    """The rows of a task; no text is in two of the lists."""

    train: list[Example]
    validation: list[Example]
    """Rows that choose prompts and end training."""
    eval: list[Example]
    """Rows to report on. They choose no step, prompt or method; only a person who reads the report may do so."""
    instruction: str
    """The task's instruction, or the system message that all rows share."""
    folds: list[frozenset[int]]
    """With few rows: the row numbers of each fold. A training on the other folds reports on it. `train` and
    `validation` together are all rows then, and so is `eval`. Otherwise empty."""

    def of_fold(self, fold: int, data: Data, *, seed: int, rule: OutputRule) -> Examples:
        """The rows of one fold's training and of its report."""
        numbers = self.folds[fold]
        others = sorted((row for row in (*self.train, *self.validation) if row.number not in numbers), key=_number)
        train, validation = _validated(others, data, seed=seed, rule=rule)
        own = [row for row in self.eval if row.number in numbers]
        return Examples(train, validation, own, self.instruction, [])

    @property
    def data_digest(self) -> str:
        """The digest of the rows to train and validate on, in any order."""
        return _digest([*self.train, *self.validation])

    @property
    def order_digest(self) -> str:
        """The digest of all rows in order: steps take rows by place, and evaluations are compared row by row."""
        return _digest_of([(row.text, row.answer) for row in (*self.train, *self.validation, *self.eval)])

    @property
    def eval_digest(self) -> str:
        """The digest of the rows to report on: two figures can be compared if it is the same."""
        return _digest(self.eval)


@dataclass(frozen=True)
class _Read:
    rows: list[Example]
    instructions: set[str]


def read_examples(task: Task, folder: Path, archived: FromArchive | None = None) -> Examples:
    """The rows of `task`. Its paths are relative to `folder`. archived: gives them where they are archived.

    Raises: Refusal `invalid_data`.
    """
    data = task.data
    read = None if data.train is None else _read(folder / data.train, task)
    eval_read = None if data.eval is None else _read(folder / data.eval, task)
    train_file: Path | str = folder / (data.train or "")
    if read is None:
        assert data.archived is not None, "a task has files or an archive"
        assert archived is not None, "whoever reads a task of an archive brings its rows"
        train_file = f"the archive of {data.archived.endpoint}"
        known = frozenset(key_of(row.text) for row in eval_read.rows) if eval_read is not None else frozenset[str]()
        read = _Read(archived(known), set())
    instructions = read.instructions
    seed, rule = task.schedule.seed, task.output
    folds: list[frozenset[int]] = []
    if eval_read is not None:
        assert data.eval is not None, "it was read from there"
        _check_leaks(folder / data.eval, eval_read.rows, train_file, read.rows)
        _check_classes(folder / data.eval, eval_read.rows, rule)
        instructions = instructions | eval_read.instructions
        rest, eval_rows = read.rows, eval_read.rows
    elif parts := _folds(read.rows, data, seed=seed, rule=rule):
        rest, eval_rows = read.rows, [row for part in parts for row in part]
        folds = [frozenset(map(_number, part)) for part in parts]
    else:
        rest, eval_rows = _held_back(read.rows, data.eval_share, seed=seed, rule=rule)
    if len(read.rows) < LEAST_TRAIN_ROWS:
        raise invalid(f"{train_file} has {len(read.rows)} rows, and {LEAST_TRAIN_ROWS} are the least: add examples")
    train, validation = _validated(rest, data, seed=seed, rule=rule)
    of_labels = isinstance(rule, Choice | Boolean)
    too_few = len({row.answer for row in train}) < 2 <= len({row.answer for row in read.rows}) and of_labels
    if not train or not validation or not eval_rows or too_few:
        raise invalid(
            f"{train_file}: data.eval_share {data.eval_share} and data.validation_share {data.validation_share} leave "
            f"{len(train)} of {len(read.rows)} rows to learn from, {len(validation)} to validate on and "
            f"{len(eval_rows)} to report on{', for each group stays together' if data.group else ''}: lower them, or "
            "add examples"
        )
    _check_classes(train_file, train, rule)
    examples = Examples(train, validation, eval_rows, _instruction(task, instructions), folds)
    for fold in range(len(folds)):
        _check_fold(train_file, examples.of_fold(fold, data, seed=seed, rule=rule), rule)
    return examples


def read_known(task: Task, folder: Path) -> Examples:
    """The rows of data.eval alone, of a task whose other rows are archived. Raises: Refusal `invalid_data`."""
    if task.data.eval is None:
        raise invalid(
            "archived answers are a model's own, and the endpoint may have been trained on them, so they do not show "
            "how well it does: name rows with known answers in data.eval"
        )
    read = _read(folder / task.data.eval, task)
    return Examples([], [], read.rows, _instruction(task, read.instructions), [])


FromArchive = Callable[[frozenset[str]], list[Example]]
"""Keys of the texts to report on, which may not be learnt from → archived rows, numbered from 1."""


def _read(file: Path, task: Task) -> _Read:
    data = task.data
    findings = Findings(file)
    heads = [{known.text, known.answer} for known in ([data.columns] if data.columns else KNOWN_COLUMNS)]
    heads += [] if data.columns else [{"instruction", "output"}]
    found: list[tuple[int, Mapping[str, Any], Conversation]] = []
    for number, cells in read_records(file, data.format, data.encoding, heads, findings):
        try:
            if (read := conversation_of(cells, data)).is_learnt:
                found.append((number, cells, read))
        except ValueError as error:
            findings.add(number, str(error))
    rows: list[Example] = []
    instructions: set[str] = set()
    has_many = len({read.instruction for _, cells, read in found if is_alpaca(cells, data)}) > 1
    for number, filled, read in found:
        # If rows have different instructions, an event's text begins with its own.
        whole = told_with_text(read) if has_many and is_alpaca(filled, data) else read
        try:
            row = _row(number, whole, task.output)
            rows.append(msgspec.structs.replace(row, group=group_of(filled, data)))
            instructions |= {whole.instruction} if has_instruction(filled, data) else set()
        except ValueError as error:
            findings.add(number, str(error))
    rows = _without_repeats(rows, findings, drop=data.duplicates == "drop")
    findings.refuse()
    if not rows:
        raise invalid(f"{file} has no rows: add examples, one JSON object a line or one record of a CSV file")
    return _Read(rows, instructions)


def _row(number: int, read: Conversation, rule: OutputRule) -> Example:
    """The example of one row. Raises ValueError, which says what to change."""
    if isinstance(read.text, int | float):
        raise ValueError(f"its text is {read.text!r:.40}, which is a number or a boolean: write it in quotes")
    if not isinstance(read.text, str) or not read.text.strip():
        raise ValueError("its text is empty or no text: fill it in, or remove the row")
    try:
        row = Example(number, read.text, spelled(read.answer, rule))
        f"{row.text}{row.answer}{read.instruction}".encode()
        check_givable(row.answer, row.text, rule)
    except UnicodeEncodeError:
        # JSON can escape it, but UTF-8 cannot encode it.
        raise ValueError("it holds half of a surrogate pair, which is no text: write the character whole") from None
    return row


def _instruction(task: Task, found: set[str]) -> str:
    if task.instruction or not found:
        return task.instruction
    if len(found) > 1:
        raise invalid(
            f"the rows have {len(found)} different system messages: an endpoint has one; set the task's instruction"
        )
    return next(iter(found))


# Checks --------------------------------------------------------------------------------------------------------------


def _without_repeats(rows: Sequence[Example], findings: Findings, *, drop: bool) -> list[Example]:
    """The rows without repeats. Unless `drop`, each repeat is a finding; so is a text with another answer."""
    first: dict[str, Example] = {}
    for row in rows:
        other = first.setdefault(key_of(row.text), row)
        if other.answer != row.answer:
            findings.add(row.number, f"it has another answer to the text of row {other.number}: keep one of them")
        elif other is not row and not drop:
            findings.add(row.number, f"it repeats row {other.number}: keep one of them, or set data.duplicates: drop")
    return list(first.values())


def _check_leaks(
    eval_file: Path, eval_rows: Sequence[Example], train_file: Path | str, train_rows: Sequence[Example]
) -> None:
    trained = {key_of(row.text): row for row in train_rows}
    groups = {row.group: row for row in train_rows if row.group}
    findings = Findings(eval_file)
    for row in eval_rows:
        if (near := groups.get(row.group)) is not None:
            findings.add(
                row.number,
                f"its group is that of row {near.number} of {train_file} as well, so that figures would be too good: "
                "keep each group in one of the files",
            )
        if (other := trained.get(key_of(row.text))) is not None:
            findings.add(
                row.number,
                f"its text is row {other.number} of {train_file} as well, so that figures would be too good: remove "
                "one of them",
            )
    findings.refuse()


def _check_classes(file: Path | str, rows: Sequence[Example], rule: OutputRule) -> None:
    if isinstance(rule, Choice | Boolean) and len({row.answer for row in rows}) < 2:
        raise invalid(f"{file}: all rows have one answer, from row {rows[0].number} on: add rows with other answers")


def _check_fold(file: Path | str, examples: Examples, rule: OutputRule) -> None:
    answers = {row.answer for row in examples.train}
    if not examples.validation or not answers or (isinstance(rule, Choice | Boolean) and len(answers) < 2):
        raise invalid(
            f"{file}: its rows are few, and without one fold there are no two answers to learn from: add rows, name "
            "other rows in data.eval, or set data.folds: 0"
        )


def _items(rows: Sequence[Example], rule: OutputRule) -> list[splits.Item]:
    of_labels = isinstance(rule, Choice | Boolean)
    return [splits.Item(key_of(row.text), row.answer if of_labels else "", row.group) for row in rows]


def _folds(rows: Sequence[Example], data: Data, *, seed: int, rule: OutputRule) -> list[list[Example]]:
    """The folds; none if a share of the rows is kept out instead."""
    few = splits.FOLDS if len(rows) < splits.FEW_ROWS else 0
    count = few if data.folds is None else data.folds
    parts = splits.folds(_items(rows, rule), count, seed=seed) if count else []
    return [[rows[place] for place in part] for part in parts] if len(parts) > 1 else []


def _validated(
    rows: Sequence[Example], data: Data, *, seed: int, rule: OutputRule
) -> tuple[list[Example], list[Example]]:
    """(rows to learn from, rows to validate on)"""
    train, validation = _held_back(rows, data.validation_share, seed=seed + 1, rule=rule)
    validation, more = validation[: data.max_validation_rows], validation[data.max_validation_rows :]
    return sorted([*train, *more], key=_number), validation


def _held_back(
    rows: Sequence[Example], share: float, *, seed: int, rule: OutputRule
) -> tuple[list[Example], list[Example]]:
    """(the other rows, about `share` of the rows but at least one)"""
    places = splits.held_back(_items(rows, rule), share, seed=seed)
    out = {*places}
    return [row for place, row in enumerate(rows) if place not in out], [rows[place] for place in places]


def _number(row: Example) -> int:
    return row.number


def _digest(rows: Sequence[Example]) -> str:
    return _digest_of(sorted((row.text, row.answer) for row in rows))


def _digest_of(pairs: Sequence[tuple[str, str]]) -> str:
    return f"sha256:{hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()}"
