"""Rows of JSONL, JSON, CSV and TSV → documents. A fault of a row is given in its place, beside good rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guideway.catalogue.documents.csv_cells import DIVIDERS, cells_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import Scalar
from guideway.training.data.strict_json import NotJson, strict_json
from guideway.training.sets.csv_table import CsvTable
from guideway.training.sets.decoding import broken_at, read_lines, refused_line, unreadable, whole_text
from guideway.training.sets.document import Document, DocumentFields


def read_jsonl(file: Path, name: str, columns: DocumentFields, encoding: str) -> Iterator[Document | Refusal]:
    """A file with one object on each line."""
    for number, line in enumerate(read_lines(file, name, encoding), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        if why := broken_at(line):
            yield refused_line(where, why)
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
    table = CsvTable(read_lines(file, name, encoding), lambda head: _delimiter(head, name, columns))
    if table.fault:
        raise unreadable(f"{name}, line {table.head_line}: {table.fault}")
    if table.twice:
        named = ", ".join(map(repr, table.twice))
        raise unreadable(f"{name} names {named} twice in its head: give each column its own name")
    for row in table.rows():
        number = table.head_line + row.number
        if row.fault:
            yield refused_line(f"{name}, {row.where}", row.fault)
        elif row.cells is None:
            yield unreadable(
                f"{name}, row {number} has more or fewer fields between {table.divided} than the head: make them "
                "agree, and put a text that holds such a sign in quotes"
            )
        else:
            yield _row(row.cells, name, number, columns)


def _delimiter(head: str, name: str, columns: DocumentFields) -> str:
    """The divider with which the head has the text field."""
    if not head.strip():
        return ","
    for delimiter in DIVIDERS:
        if columns.text in cells_of(head, delimiter):
            return delimiter
    known = ", ".join(DIVIDERS.values())
    raise unreadable(
        f"{name} has no text field {columns.text!r} in its head, whichever of {known} divides it: name its field with "
        f"--text-field. It begins {head.strip()[:80]!r}"
    )


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
    metadata = {key: _kept(value) for key, value in told.items() if key not in {columns.text, columns.id}}
    return Document(
        id=f"{name}:{number}" if id_ in (None, "") else id_ if isinstance(id_, str) else json.dumps(id_),
        text=text,
        metadata={"source": name, **{key: value for key, value in metadata.items() if value is not None}},
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


def _kept(value: Any) -> Scalar | float | list[Scalar] | None:
    """What an index can hold of it: a scalar, or those of a list. Deeper values cannot be filtered by."""
    if isinstance(value, list):
        kept = [one for one in value if isinstance(one, str | int) and _fits(one)]
        return kept if kept or not value else None
    return value if isinstance(value, str | int | float) and _fits(value) else None


def _fits(value: float | str) -> bool:
    """Whether an index can hold it: integers have at most 64 bits."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63
