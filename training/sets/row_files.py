"""Rows of JSONL, JSON, CSV and TSV → documents; what is wrong with a row is told beside those that are sound."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.sets.decoding import MAX_LINE_BYTES, lines, unreadable, whole_text
from guideway.training.sets.document import Columns, Document

DIVIDERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_jsonl(file: Path, name: str, columns: Columns, encoding: str) -> Iterator[Document | Refusal]:
    """One object a line."""
    for number, line in enumerate(lines(file, name, encoding), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            yield unreadable(f"{name}, line {number} is no JSON object: write one a line")
        else:
            yield _row(row, name, number, columns)


def read_json(file: Path, name: str, columns: Columns, encoding: str) -> Iterator[Document | Refusal]:
    """One object, or an array of them."""
    try:
        rows = msgspec.json.decode(whole_text(file, name, encoding), type=dict[str, Any] | list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError):
        raise unreadable(f"{name} is neither a JSON object nor an array of them: make it one of these") from None
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield _row(row, name, number, columns)


def read_csv(file: Path, name: str, columns: Columns, encoding: str) -> Iterator[Document | Refusal]:
    """With a head; between commas, semicolons, tabs or bars, whichever the head has, or a line `sep=` says."""
    csv.field_size_limit(MAX_LINE_BYTES)
    found = lines(file, name, encoding)
    first = next(found, "")
    delimiter = None
    before = 1
    if first.lower().startswith("sep=") and len(first.strip()) == len("sep=;"):
        delimiter, before = first[4], 2
        first = next(found, "")
    if delimiter is None:
        delimiter = _delimiter(first, name, columns)
    rows = csv.DictReader(chain([first], found), strict=True, delimiter=delimiter)
    yield from _csv_rows(rows, name, columns, first_row=before + 1)


def _csv_rows(
    rows: csv.DictReader[str], name: str, columns: Columns, *, first_row: int
) -> Iterator[Document | Refusal]:
    number = first_row
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield unreadable(f"{name}, line {rows.reader.line_num}: {error}")
        else:
            if None in row or None in row.values():
                divided = DIVIDERS.get(rows.reader.dialect.delimiter, "the dividers that it names")
                yield unreadable(
                    f"{name}, row {number} has more or fewer fields between {divided} than the head: make them agree, "
                    "and put a text that holds such a sign in quotes"
                )
            else:
                yield _row(row, name, number, columns)
        number += 1


def _delimiter(head: str, name: str, columns: Columns) -> str:
    """The one that makes the text field a field of the head."""
    if not head.strip():
        return ","
    for delimiter in DIVIDERS:
        if columns.text in cells_of(head, delimiter):
            return delimiter
    known = ", ".join(DIVIDERS.values())
    raise unreadable(
        f"{name} has no text field {columns.text!r} in its head, be it between {known}: name the one it has with "
        "--text-field"
    )


def cells_of(line: str, divider: str) -> list[str]:
    """The cells of one line; none where it cannot be divided so."""
    try:
        return next(csv.reader([line], delimiter=divider), [])
    except csv.Error:
        return []


def _row(row: dict[str, Any], name: str, number: int, columns: Columns) -> Document | Refusal:
    text = row.get(columns.text)
    if not isinstance(text, str):
        return unreadable(
            f"{name}, row {number} has no text field {columns.text!r}: name the one it has with --text-field"
        )
    if not text.strip():
        return Refusal(FailureCode.DOCUMENT_EMPTY, f"{name}, row {number} has an empty text: leave it out")
    id_ = row.get(columns.id)
    metadata = {key: value for key, value in row.items() if key not in {columns.text, columns.id}}
    return Document(
        id=f"{name}:{number}" if id_ in (None, "") else str(id_),
        text=text,
        metadata={"source": name, **{key: value for key, value in metadata.items() if _is_metadata(value)}},
    )


def _is_metadata(value: Any) -> bool:
    """Scalars and lists of them; what is nested deeper cannot be filtered by."""
    if isinstance(value, list):
        return all(isinstance(one, str | int) for one in value)
    return isinstance(value, str | int | float)
