"""The examples, checked. Pure but for reading the files; all that is wrong with a file is said at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.schemas.output import Boolean, Choice, OutputRule
from guideway.schemas.request import Part
from guideway.training.answers import spelled
from guideway.training.conversations import Conversation, read_conversation
from guideway.training.records import Findings, invalid, read_records
from guideway.training.task import Columns, Data, Task

KNOWN_COLUMNS: Final = (Columns(text="text", answer="label"), Columns(text="prompt", answer="completion"))
MESSAGES: Final = "messages"
LEAST_TRAIN_ROWS: Final = 8


class Row(msgspec.Struct, frozen=True):
    """One example."""

    number: int
    """Line of a JSONL file, element of a JSON array, record of a CSV file; from 1 on."""
    text: str
    """What an event would bring."""
    answer: str
    """What the model is to write, as the output rule spells it."""
    context: list[Part] = []
    """What retrieval puts into the text, before the event's own."""


@dataclass(frozen=True)
class Examples:
    """The rows of a task; no text is in two of the lists."""

    train: list[Row]
    validation: list[Row]
    """To choose prompts and to end training."""
    eval: list[Row]
    """To report on. No step, prompt or method is chosen by them, unless a person reads the report and chooses so."""
    instruction: str
    """The task's, or the system message that all rows have."""

    @property
    def data_digest(self) -> str:
        """Of what was learnt from, whatever the order of the rows."""
        return _digest([*self.train, *self.validation])

    @property
    def order_digest(self) -> str:
        """Of all rows in their order: steps take rows by their places, and evaluations are compared row by row."""
        return _digest_of([(row.text, row.answer) for row in (*self.train, *self.validation, *self.eval)])

    @property
    def eval_digest(self) -> str:
        """Of what is reported on: two figures compare where this is the same."""
        return _digest(self.eval)


@dataclass(frozen=True)
class _Read:
    rows: list[Row]
    instructions: set[str]


def read_examples(task: Task, folder: Path) -> Examples:
    """The rows of `task`, whose relative paths begin at `folder`. Raises: Refusal `invalid_data`."""
    data = task.data
    train_file = folder / data.train
    read = _read(train_file, task)
    instructions = read.instructions
    if data.eval is None:
        rest, eval_rows = _held_back(read.rows, data.eval_share, seed=task.schedule.seed)
    else:
        eval_read = _read(folder / data.eval, task)
        _check_leaks(folder / data.eval, eval_read.rows, train_file, read.rows)
        _check_classes(folder / data.eval, eval_read.rows, task.output)
        instructions = instructions | eval_read.instructions
        rest, eval_rows = read.rows, eval_read.rows
    if len(read.rows) < LEAST_TRAIN_ROWS:
        raise invalid(f"{train_file} has {len(read.rows)} rows, and {LEAST_TRAIN_ROWS} are the least: add examples")
    train, validation = _held_back(rest, data.validation_share, seed=task.schedule.seed + 1)
    validation, more = validation[: data.max_validation_rows], validation[data.max_validation_rows :]
    train = sorted([*train, *more], key=lambda row: row.number)
    if not train:
        raise invalid(
            f"{train_file}: data.eval_share {data.eval_share} and data.validation_share {data.validation_share} leave "
            "no row to learn from: lower them, or add examples"
        )
    _check_classes(train_file, train, task.output)
    return Examples(train, validation, eval_rows, _instruction(task, instructions))


def _read(file: Path, task: Task) -> _Read:
    rows: list[Row] = []
    instructions: set[str] = set()
    findings = Findings(file)
    heads = [{known.text, known.answer} for known in ([task.data.columns] if task.data.columns else KNOWN_COLUMNS)]
    for number, cells in read_records(file, task.data.format, task.data.encoding, heads, findings):
        try:
            read = _example(cells, task.data)
            if read.is_learnt:
                rows.append(_row(number, read, task.output))
                instructions |= {read.instruction} if MESSAGES in cells else set()
        except ValueError as error:
            findings.add(number, str(error))
    rows = _without_repeats(rows, findings, drop=task.data.duplicates == "drop")
    findings.refuse()
    if not rows:
        raise invalid(f"{file} has no rows: add examples, one JSON object a line or one record of a CSV file")
    return _Read(rows, instructions)


def _example(cells: Mapping[str, Any], data: Data) -> Conversation:
    """Raises ValueError, which says what to change."""
    columns = _columns(cells, data)
    if columns is None:
        return read_conversation(cells[MESSAGES])
    return Conversation("", cells[columns.text], cells[columns.answer], is_learnt=True)


def _row(number: int, read: Conversation, rule: OutputRule) -> Row:
    """Raises ValueError, which says what to change."""
    if not isinstance(read.text, str) or not read.text.strip():
        raise ValueError("its text is empty or no text: fill it in, or remove the row")
    try:
        row = Row(number, read.text, spelled(read.answer, rule))
        f"{row.text}{row.answer}{read.instruction}".encode()
    except UnicodeEncodeError:
        # JSON can escape it, and it cannot be written as UTF-8.
        raise ValueError("it holds half of a surrogate pair, which is no text: write the character whole") from None
    return row


def _columns(cells: Mapping[str, Any], data: Data) -> Columns | None:
    """The columns to read; None where a row is a conversation. Raises ValueError, which says what to change."""
    used = {name for name in cells if name not in data.ignore_columns and not _is_nothing(name, cells[name])}
    columns = data.columns
    if columns is None:
        if used == {MESSAGES}:
            return None
        columns = next((known for known in KNOWN_COLUMNS if {known.text, known.answer} <= cells.keys()), None)
    if columns is None:
        raise ValueError(
            f"its columns are {_listed(cells)}, and text and label, prompt and completion, or messages are "
            "looked for: rename them, or name them in data.columns"
        )
    if missing := {columns.text, columns.answer} - cells.keys():
        raise ValueError(f"it lacks the column {_listed(missing)}; it has {_listed(cells)}")
    if unknown := used - {columns.text, columns.answer}:
        raise ValueError(f"column {_listed(unknown)} is not known: list it in data.ignore_columns, or remove it")
    return columns


def _is_nothing(name: str, value: Any) -> bool:
    """Whether a column besides is as good as not there."""
    return name not in {MESSAGES} and value in (None, [], {})


def _instruction(task: Task, found: set[str]) -> str:
    if task.instruction or not found:
        return task.instruction
    if len(found) > 1:
        raise invalid(
            f"the rows have {len(found)} different system messages: an endpoint has one; set the task's instruction"
        )
    return next(iter(found))


# Checks --------------------------------------------------------------------------------------------------------------


def _without_repeats(rows: Sequence[Row], findings: Findings, *, drop: bool) -> list[Row]:
    """The rows, of those with the same text and answer the first, or each of the others is a finding."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(_key(row.text), row)
        if other.answer != row.answer:
            findings.add(row.number, f"it has another answer to the text of row {other.number}: keep one of them")
        elif other is not row and not drop:
            findings.add(row.number, f"it repeats row {other.number}: keep one of them, or set data.duplicates: drop")
    return list(first.values())


def _check_leaks(eval_file: Path, eval_rows: Sequence[Row], train_file: Path, train_rows: Sequence[Row]) -> None:
    trained = {_key(row.text): row for row in train_rows}
    for row in eval_rows:
        if (other := trained.get(_key(row.text))) is not None:
            raise invalid(
                f"{eval_file}, row {row.number}: its text is row {other.number} of {train_file} as well, so that "
                "figures would be too good: remove one of them"
            )


def _check_classes(file: Path, rows: Sequence[Row], rule: OutputRule) -> None:
    if isinstance(rule, Choice | Boolean) and len({row.answer for row in rows}) < 2:
        raise invalid(f"{file}: all rows have one answer, from row {rows[0].number} on: add rows with other answers")


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _held_back(rows: Sequence[Row], share: float, *, seed: int) -> tuple[list[Row], list[Row]]:
    """(the others, about `share` of the rows, at least one), by a hash of the text, whatever the rows' order."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {_key(row.text)}".encode()).digest())
    count = max(1, round(share * len(rows)))
    return sorted(ranked[count:], key=lambda row: row.number), ranked[:count]


def _digest(rows: Sequence[Row]) -> str:
    return _digest_of(sorted((row.text, row.answer) for row in rows))


def _digest_of(pairs: Sequence[tuple[str, str]]) -> str:
    return f"sha256:{hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()}"


def _listed(columns: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(repr(column) for column in sorted(columns, key=str))
