"""A batch file → its rows, one after the other, from any position on.

It reads a file, so it takes time and belongs in a thread; memory stays flat whatever the file holds.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import BinaryIO

from guideway.catalogue.entries import Catalogue
from guideway.producers.batch.files.asked import Asking
from guideway.producers.batch.files.csv_rows import Head, csv_head, csv_rows
from guideway.producers.batch.files.form import ID_COLUMN, FileForm
from guideway.producers.batch.files.found import Found, unusable
from guideway.producers.batch.files.json_lines import json_rows
from guideway.producers.batch.files.parquet_rows import ParquetFile
from guideway.producers.batch.files.row import START, BadRow, BatchRow, Position
from guideway.schemas.failures import FailureCode


def read_rows(
    source: BinaryIO,
    form: FileForm,
    *,
    catalogue: Catalogue,
    caller: str,
    at: Position = START,
    doubled: Container[int] = (),
) -> Iterator[BatchRow | BadRow]:
    """The rows of a file from `at` on. Each row of the file comes once, as the one or the other.

    source: one can seek in it. caller: the namespace whose rows these are.
    doubled: lines whose id an earlier row has, as `survey` finds them; each is a BadRow(duplicate_id).
    Raises Refusal: invalid_data where the file cannot be read, or not to its end; invalid_setting without pyarrow.
    """
    asking = Asking(form, catalogue, caller)
    for found in found_rows(source, form, at=at):
        row = asking.row(found)
        if isinstance(row, BatchRow) and row.line in doubled:
            row = BadRow(
                line=row.line,
                last_line=found.last_line,
                id=row.id,
                code=FailureCode.DUPLICATE_ID,
                message=f"an earlier row has the id {row.id!r}: give each row its own",
                answer=row.answer,
                next=row.next,
            )
        yield row


def found_rows(source: BinaryIO, form: FileForm, *, at: Position = START) -> Iterator[Found]:
    """The rows as they stand in the file. Raises as `read_rows`."""
    match form.format:
        case "jsonl":
            yield from json_rows(source, form, at)
        case "csv" | "tsv":
            yield from csv_rows(source, form, head_of(source, form), at)
        case "parquet":
            file = ParquetFile(source, form)
            yield from file.found(at, used_columns(form, file.columns))


def head_of(source: BinaryIO, form: FileForm) -> Head:
    """The head of a CSV file, with all columns that are named. Raises Refusal(invalid_data)."""
    head = csv_head(source, form, {*form.columns.values(), form.id_column, "endpoint", "text"})
    used_columns(form, head.columns)
    return head


def used_columns(form: FileForm, there: list[str]) -> list[str]:
    """The columns of a table that are read. Raises Refusal(invalid_data) where one that was named is not there."""
    listed = ", ".join(repr(name) for name in there[:20])
    for field, column in form.columns.items():
        if column not in there:
            raise unusable(
                f"{form.name} has no column {column!r:.80}, which fills field {field!r:.80}: it has {listed}"
            )
    if form.id_column != ID_COLUMN and form.id_column not in there:
        raise unusable(f"{form.name} has no column {form.id_column!r:.80}, which is to name its rows: it has {listed}")
    if form.endpoint is None and "endpoint" not in there:
        what = form.advice("add --endpoint /NAMESPACE/NAME", "ask with the batch's `endpoint` /NAMESPACE/NAME")
        raise unusable(f"{form.name} does not say which endpoint its rows are for: {what}, or add a column `endpoint`")
    if not form.columns:
        return there
    return [name for name in there if name in {*form.columns.values(), form.id_column, "endpoint"}]
