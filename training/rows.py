"""The examples, read and checked. Pure but for reading the files; whatever is wrong is said with its row."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, OutputRule
from guideway.schemas.request import Part
from guideway.training.answers import spelled
from guideway.training.task import Columns, Data, Task

KNOWN_COLUMNS: Final = (Columns(text="text", answer="label"), Columns(text="prompt", answer="completion"))
MESSAGES: Final = "messages"
LEAST_TRAIN_ROWS: Final = 8


class Row(msgspec.Struct, frozen=True):
    """One example."""

    number: int
    """Line of a JSONL file, record of a CSV file; from 1 on."""
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
    _check_repeats(train_file, read.rows)
    instructions = read.instructions
    if data.eval is None:
        rest, eval_rows = _held_back(read.rows, data.eval_share, seed=task.schedule.seed)
    else:
        eval_read = _read(folder / data.eval, task)
        _check_repeats(folder / data.eval, eval_read.rows)
        _check_leaks(folder / data.eval, eval_read.rows, train_file, read.rows)
        _check_classes(folder / data.eval, eval_read.rows, task.output)
        instructions = instructions | eval_read.instructions
        rest, eval_rows = read.rows, eval_read.rows
    if len(read.rows) < LEAST_TRAIN_ROWS:
        raise _refusal(f"{train_file} has {len(read.rows)} rows, and {LEAST_TRAIN_ROWS} are the least: add examples")
    train, validation = _held_back(rest, data.validation_share, seed=task.schedule.seed + 1)
    validation, more = validation[: data.max_validation_rows], validation[data.max_validation_rows :]
    train = sorted([*train, *more], key=lambda row: row.number)
    if not train:
        raise _refusal(
            f"{train_file}: data.eval_share {data.eval_share} and data.validation_share {data.validation_share} leave "
            "no row to learn from: lower them, or add examples"
        )
    _check_classes(train_file, train, task.output)
    return Examples(train, validation, eval_rows, _instruction(task, instructions))


def _read(file: Path, task: Task) -> _Read:
    rows: list[Row] = []
    instructions: set[str] = set()
    for number, cells in _records(file, task.data):
        where = f"{file}, row {number}"
        columns = _columns(where, cells, task.data)
        if columns is None:
            instruction, text, answer = _conversation(where, cells[MESSAGES])
            if not _is_unicode(instruction):
                raise _no_text(where)
            instructions.add(instruction)
        else:
            text, answer = cells[columns.text], cells[columns.answer]
        if not isinstance(text, str) or not text.strip():
            raise _refusal(f"{where}: its text is empty or no text: fill it in, or remove the row")
        try:
            row = Row(number, text, spelled(answer, task.output))
        except UnicodeEncodeError:
            raise _no_text(where) from None
        except ValueError as error:
            raise _refusal(f"{where}: {error}") from None
        if not (_is_unicode(row.text) and _is_unicode(row.answer)):
            raise _no_text(where)
        rows.append(row)
    if not rows:
        raise _refusal(f"{file} has no rows: add examples, one JSON object a line or one record of a CSV file")
    return _Read(rows, instructions)


def _records(file: Path, data: Data) -> Iterator[tuple[int, dict[str, Any]]]:
    form = data.format or file.suffix.removeprefix(".")
    if form not in ("jsonl", "csv"):
        raise _refusal(f"{file}: whether it is JSONL or CSV is not to be seen from its name: set data.format")
    try:
        with file.open(encoding="utf-8-sig", newline="" if form == "csv" else None) as lines:
            yield from _csv(file, lines) if form == "csv" else _jsonl(file, lines)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _refusal(f"{file} cannot be read ({reason}): correct data.train or data.eval") from None


def _jsonl(file: Path, lines: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError):
            cells = None
        if not isinstance(cells, dict):
            raise _refusal(f"{file}, row {number}: it is no JSON object: write one object a line")
        yield number, cells


def _csv(file: Path, lines: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        for number, cells in enumerate(csv.DictReader(lines, strict=True), 1):
            if None in cells or None in cells.values():
                raise _refusal(f"{file}, row {number}: it has not as many cells as the head has columns: quote commas")
            yield number, dict(cells)
    except csv.Error as error:
        raise _refusal(f"{file}: it is no CSV ({error}): quote cells that hold commas or line ends") from None


def _columns(where: str, cells: Mapping[str, Any], data: Data) -> Columns | None:
    """The columns to read; None where a row is a conversation."""
    used = cells.keys() - {*data.ignore_columns}
    columns = data.columns
    if columns is None:
        if used == {MESSAGES}:
            return None
        columns = next((known for known in KNOWN_COLUMNS if {known.text, known.answer} <= used), None)
    if columns is None:
        raise _refusal(
            f"{where}: its columns are {_listed(cells)}, and text and label, prompt and completion, or messages are "
            "looked for: rename them, or name them in data.columns"
        )
    if missing := {columns.text, columns.answer} - used:
        raise _refusal(f"{where}: it lacks the column {_listed(missing)}; it has {_listed(cells)}")
    if unknown := used - {columns.text, columns.answer}:
        raise _refusal(f"{where}: column {_listed(unknown)} is not known: list it in data.ignore_columns, or remove it")
    return columns


def _conversation(where: str, messages: Any) -> tuple[str, str, Any]:
    """(system message, user's message, assistant's answer)"""
    try:
        turns = [(turn["role"], turn["content"]) for turn in messages]
    except (TypeError, KeyError):
        turns = []
    match turns:
        case [("user", text), ("assistant", answer)]:
            return "", text, answer
        case [("system", str(system)), ("user", text), ("assistant", answer)]:
            return system, text, answer
    raise _refusal(
        f"{where}: its messages must be one of the user and one of the assistant, perhaps after a system message"
    )


def _instruction(task: Task, found: set[str]) -> str:
    if task.instruction or not found:
        return task.instruction
    if len(found) > 1:
        raise _refusal(
            f"the rows have {len(found)} different system messages: an endpoint has one; set the task's instruction"
        )
    return next(iter(found))


# Checks --------------------------------------------------------------------------------------------------------------


def _check_repeats(file: Path, rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(_key(row.text), row)
        if other is not row:
            how = "repeats" if other.answer == row.answer else "has another answer to the text of"
            raise _refusal(f"{file}, row {row.number}: it {how} row {other.number}: keep one of them")


def _check_leaks(eval_file: Path, eval_rows: Sequence[Row], train_file: Path, train_rows: Sequence[Row]) -> None:
    trained = {_key(row.text): row for row in train_rows}
    for row in eval_rows:
        if (other := trained.get(_key(row.text))) is not None:
            raise _refusal(
                f"{eval_file}, row {row.number}: its text is row {other.number} of {train_file} as well, so that "
                "figures would be too good: remove one of them"
            )


def _check_classes(file: Path, rows: Sequence[Row], rule: OutputRule) -> None:
    if isinstance(rule, Choice | Boolean) and len({row.answer for row in rows}) < 2:
        raise _refusal(f"{file}: all rows have one answer, from row {rows[0].number} on: add rows with other answers")


def _is_unicode(text: str) -> bool:
    """Half of a surrogate pair, which JSON can escape, is no character and cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_text(where: str) -> Refusal:
    return _refusal(f"{where}: it holds half of a surrogate pair, which is no text: write the character whole")


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


def _refusal(message: str) -> Refusal:
    return Refusal(FailureCode.INVALID_DATA, message)
