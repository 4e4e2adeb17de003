"""Files of examples → records, each a dictionary of cells. Faults name their rows, and all are reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from guideway.catalogue.documents.csv_cells import DIVIDERS, cells_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.data.strict_json import NotJson, Strange, strict_json
from guideway.training.sets.csv_table import CsvTable
from guideway.training.sets.decoding import broken_at, known_encoding, read_lines, whole_text

Format = Literal["jsonl", "json", "csv", "tsv"]
_OTHERS: Final = {
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "feather": "a Feather file",
    "xlsx": "an Excel file",
    "xls": "an Excel file",
    "ods": "a spreadsheet",
    "pkl": "a pickle",
    "pt": "a pickle",
    "npz": "a NumPy file",
    "gz": "compressed",
    "zip": "compressed",
    "zst": "compressed",
}
_BY_PROGRAM: Final = "with the program that made it"
_WAYS: Final = {
    "parquet": "with `datasets` (`Dataset.from_parquet(FILE).to_json('rows.jsonl')`) or pandas",
    "arrow": "with `datasets` (`Dataset.from_file(FILE).to_json('rows.jsonl')`)",
    "gz": "by unpacking it",
    "zip": "by unpacking it",
    "zst": "by unpacking it",
}
_KINDS_SHOWN: Final = 20
_ROWS_SHOWN: Final = 5


class Findings:
    """The faults of the rows of one file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, list[int]] = {}

    def add(self, row: int, what: str) -> None:
        """Note a fault of a row."""
        self._rows.setdefault(what, []).append(row)

    def refuse(self) -> None:
        """Raises Refusal(invalid_data) with all findings, if there are any."""
        if not self._rows:
            return
        told = [f"{_listed(rows)}: {what}" for what, rows in sorted(self._rows.items(), key=lambda one: one[1][0])]
        if len(told) == 1:
            raise invalid(f"{self._file}, {told[0]}")
        more = f"; and {len(told) - _KINDS_SHOWN} more kinds" if len(told) > _KINDS_SHOWN else ""
        count = sum(map(len, self._rows.values()))
        raise invalid(f"{self._file}: {count} findings. In {'; in '.join(told[:_KINDS_SHOWN])}{more}")


def read_records(
    file: Path, format_: Format | None, encoding: str, heads: Sequence[set[str]], findings: Findings
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the row from 1 on, its cells). heads: sets of columns; a CSV file's head has one of them.

    Raises Refusal(invalid_data) if the file cannot be read as a whole.
    """
    form = format_ or file.suffix.removeprefix(".").lower()
    if form not in get_args(Format):
        raise invalid(f"{file} {_unread(file, form)}")
    try:
        encoding = known_encoding(encoding)
        if form in ("csv", "tsv"):
            yield from _csv(file, encoding, heads, findings)
        elif form == "json":
            yield from _array(file, whole_text(file, str(file), encoding))
        else:
            yield from _jsonl(file, encoding, findings)
    except Refusal as refusal:
        raise invalid(_in_settings(refusal.message)) from None


def _unread(file: Path, form: str) -> str:
    """Why a file of this form is not read, and what to do."""
    if file.is_dir():
        return (
            "is a folder: name a file in it; one that `datasets` saved becomes one by "
            "`load_from_disk(FOLDER).to_json('rows.jsonl')`"
        )
    if form in _OTHERS:
        return f"is {_OTHERS[form]}, which is not read: write it as JSONL, CSV or TSV, {_WAYS.get(form, _BY_PROGRAM)}"
    return (
        "may be JSONL, JSON, CSV or TSV, and its name does not say which: give it that ending (in a task: data.format)"
    )


def invalid(message: str) -> Refusal:
    """A refusal of the data."""
    return Refusal(FailureCode.INVALID_DATA, message)


def _jsonl(file: Path, encoding: str, findings: Findings) -> Iterator[tuple[int, dict[str, Any]]]:
    first = next((line for line in read_lines(file, str(file), encoding) if line.strip()), "")
    if first.lstrip().startswith("["):
        # Many programs write an array and name the file JSONL.
        yield from _array(file, whole_text(file, str(file), encoding))
        return
    for number, line in enumerate(read_lines(file, str(file), encoding), 1):
        if why := broken_at(line):
            findings.add(number, _in_settings(why))
        elif line.strip():
            try:
                cells = strict_json(line)
            except Strange as error:
                findings.add(number, str(error))
                continue
            except NotJson:
                cells = None
            if isinstance(cells, dict):
                yield number, cells
            else:
                findings.add(number, "it is no JSON object: write one object a line")


def _array(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = strict_json(text)
    except NotJson as error:
        raise invalid(f"{file} is no JSON array of objects: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise invalid(f"{file} is no JSON array of objects: write one, or one object a line")
    yield from enumerate(rows, 1)


def _csv(
    file: Path, encoding: str, heads: Sequence[set[str]], findings: Findings
) -> Iterator[tuple[int, dict[str, Any]]]:
    def divider(head: str) -> str:
        return next((one for one in DIVIDERS if any(some <= {*cells_of(head, one)} for some in heads)), ",")

    table = CsvTable(read_lines(file, str(file), encoding), divider)
    if table.fault:
        raise invalid(f"{file}, line {table.head_line}: {_in_settings(table.fault)}")
    if table.twice:
        named = ", ".join(map(repr, table.twice))
        raise invalid(f"{file} names {named} twice in its head: give each column its own name")
    for row in table.rows():
        if row.fault:
            findings.add(row.number, _in_settings(row.fault))
        elif row.cells is None:
            findings.add(
                row.number, "it has more or fewer cells than the head: put cells in quotes that hold the dividing sign"
            )
        else:
            yield row.number, dict(row.cells)


def _in_settings(message: str) -> str:
    """The same, for whoever has no --encoding, but the settings of a task or nothing (`guideway replay`)."""
    for what in ("the file's", "its encoding"):
        message = message.replace(
            f"name {what} with --encoding", "name its encoding in data.encoding of a task, or write it in UTF-8"
        )
    return message


def _listed(rows: list[int]) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
    return f"{len(rows)} rows ({', '.join(map(str, rows[:_ROWS_SHOWN]))}{more})"
