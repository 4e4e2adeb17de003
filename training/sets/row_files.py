"""Rows of JSONL, JSON, CSV and TSV → documents. A fault of a row is given in its place, beside good rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.data.strict_json import NotJson, strict_json
from guideway.training.sets.decoding import MAX_LINE_BYTES, broken_at, read_lines, unreadable, whole_text
from guideway.training.sets.document import Document, DocumentFields

DIVIDERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEP: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""A line before the head that tells Excel the divider of cells."""


def read_jsonl(file: Path, name: str, columns: DocumentFields, encoding: str) -> Iterator[Document | Refusal]:
    """A file with one object on each line."""
    for number, line in enumerate(read_lines(file, name, encoding, keep_broken=True), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        if why := broken_at(line):
            yield unreadable(f"{where}: {why}")
            continue
        try:
            row = strict_json(line)
        except NotJson as error:
            yield unreadable(f"{where} is no JSON object, write one a line: {error}")
            continue
        if isinstance(row, dict):
            yield _row(row, name, number, columns)
        else:
            an_array = ", or name the file .json" if isinstance(row, list) else ""
            yield unreadable(f"{where} is no JSON object: write one a line{an_array}")


def read_json(file: Path, name: str, columns: DocumentFields, encoding: str) -> Iterator[Document | Refusal]:
    """A file with one object or an array of objects."""
    try:
        rows = strict_json(whole_text(file, name, encoding))
    except NotJson as error:
        raise unreadable(f"{name} is neither a JSON object nor an array of them: {error}") from None
    if isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise unreadable(f"{name} is neither a JSON object nor an array of them: make it one of these")
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield _row(row, name, number, columns)
        else:
            yield unreadable(f"{name}, row {number} is no JSON object but {_kind(row)}: make it one")


def read_csv(file: Path, name: str, columns: DocumentFields, encoding: str) -> Iterator[Document | Refusal]:
    """A file with a head. Commas, semicolons, tabs or bars divide cells, as the head or a line `sep=` shows."""
    csv.field_size_limit(MAX_LINE_BYTES)
    found = read_lines(file, name, encoding, keep_broken=True)
    first = next(found, "")
    delimiter, before = None, 1
    if said := _SEP.fullmatch(first):
        delimiter, before = said[1], 2
        first = next(found, "")
    if why := broken_at(first):
        raise unreadable(f"{name}, line {before}: {why}")
    if delimiter is None:
        delimiter = _delimiter(first, name, columns)
    rows = csv.reader(chain([first], found), strict=True, delimiter=delimiter)
    try:
        head = [one.strip() for one in next(rows, [])]
    except csv.Error as error:
        raise unreadable(f"{name}, line {before}: {error}") from None
    if twice := sorted({one for one in head if one and head.count(one) > 1}):
        raise unreadable(f"{name} names {', '.join(map(repr, twice))} twice in its head: give each column its own name")
    yield from _csv_rows(rows, head, name, columns, before)


def _csv_rows(
    rows: Any, head: list[str], name: str, columns: DocumentFields, before: int
) -> Iterator[Document | Refusal]:
    """The documents of rows. rows: of `csv.reader`, after the head. before: the line of the head."""
    number = before
    while True:
        number += 1
        try:
            cells = next(rows)
            if not cells:
                # As in csv.DictReader, blank lines are no rows.
                number -= 1
                continue
        except StopIteration:
            return
        except csv.Error as error:
            doubled = ": a quotation mark within quotes is written twice" if "expected after" in str(error) else ""
            yield unreadable(f"{name}, line {before - 1 + rows.line_num}: {error}{doubled}")
            continue
        if why := next(filter(None, map(broken_at, cells)), ""):
            yield unreadable(f"{name}, line {before - 1 + rows.line_num}: {why}")
        elif len(cells) != len(head):
            divided = DIVIDERS.get(rows.dialect.delimiter, "the dividers that it names")
            yield unreadable(
                f"{name}, row {number} has more or fewer fields between {divided} than the head: make them agree, "
                "and put a text that holds such a sign in quotes"
            )
        else:
            # A column without a name comes from a divider at the end of lines, or numbers the rows.
            yield _row({key: cell for key, cell in zip(head, cells, strict=True) if key}, name, number, columns)


def _delimiter(head: str, name: str, columns: DocumentFields) -> str:
    """The divider with which the head has the text field."""
    if not head.strip():
        return ","
    for delimiter in DIVIDERS:
        if columns.text in [one.strip() for one in cells_of(head, delimiter)]:
            return delimiter
    known = ", ".join(DIVIDERS.values())
    raise unreadable(
        f"{name} has no text field {columns.text!r} in its head, whichever of {known} divides it: name its field with "
        f"--text-field. It begins {head.strip()[:80]!r}"
    )


def cells_of(line: str, divider: str) -> list[str]:
    """The cells of one line; none if this divider does not fit."""
    try:
        return next(csv.reader([line], delimiter=divider), [])
    except csv.Error:
        return []


def _row(row: dict[str, Any], name: str, number: int, columns: DocumentFields) -> Document | Refusal:
    text = row.get(columns.text)
    if columns.text not in row:
        others = ", ".join(f"{key!r:.40}" for key in [*row][:10])
        return unreadable(
            f"{name}, row {number} has no text field {columns.text!r}: name the one it has with --text-field; it has "
            f"{others or 'none'}"
        )
    if not isinstance(text, str):
        return unreadable(
            f"{name}, row {number}: {columns.text!r} is {_kind(text)}, and no text: make it one, or leave it out"
        )
    if not text.strip():
        return Refusal(FailureCode.DOCUMENT_EMPTY, f"{name}, row {number} has an empty text: leave it out")
    id_ = row.get(columns.id)
    inner = row.get("metadata")
    # LangChain and LlamaIndex write metadata in this form.
    told = {**inner, **row} if isinstance(inner, dict) else row
    metadata = {key: value for key, value in told.items() if key not in {columns.text, columns.id}}
    return Document(
        id=f"{name}:{number}" if id_ in (None, "") else str(id_),
        text=text,
        metadata={"source": name, **{key: value for key, value in metadata.items() if _is_metadata(value)}},
    )


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool() | int() | float():
            return f"the {'number' if not isinstance(value, bool) else 'value'} {str(value).lower():.40}"
        case list():
            return "a list"
        case dict():
            return "an object"
    return "a text"


def _is_metadata(value: Any) -> bool:
    """Whether it is a scalar or a list of scalars. Deeper values cannot be filtered by."""
    if isinstance(value, list):
        return all(isinstance(one, str | int) and _fits(one) for one in value)
    return isinstance(value, str | int | float) and _fits(value)


def _fits(value: float | str) -> bool:
    """Whether an index can hold it: integers have at most 64 bits."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63
