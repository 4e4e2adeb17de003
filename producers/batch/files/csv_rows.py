"""CSV and TSV → rows, by the head. A quote that does not close costs its own line, not what comes after it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from guideway.catalogue.documents.csv_cells import DIVIDERS, SEP, CsvRow, cells_of, csv_cells, named_twice
from guideway.producers.batch.files.form import MAX_COLUMNS, FileForm
from guideway.producers.batch.files.found import Found, undecodable, unusable
from guideway.producers.batch.files.json_lines import require_rows_to_come, too_long
from guideway.producers.batch.files.plain_text import Line, broken, lines
from guideway.producers.batch.files.row import START, Position
from guideway.schemas.failures import Refusal


class Head(NamedTuple):
    """What the beginning of the file says of all its rows."""

    columns: list[str]
    """In order; empty for a column without a name, which is left out."""
    delimiter: str
    end: Position


def csv_head(source: BinaryIO, form: FileForm, known: Collection[str]) -> Head:
    """known: columns that the head may have, by which the divider of cells is found where it is not told.

    Raises Refusal(invalid_data).
    """
    found = lines(source, form, START)
    delimiter = form.delimiter or ("\t" if form.format == "tsv" else None)
    first = next(found, None)
    if first is not None and (said := SEP.fullmatch(_text(first))):
        delimiter, first = delimiter or said[1], next(found, None)
    if first is None:
        raise unusable(f"{form.name} is empty: write a head, which names the columns, and rows")
    if why := (too_long().message if first.is_too_long else broken(first.text, form)):
        raise unusable(f"{form.name}, line {first.number}: {why}")
    if delimiter is None:
        delimiter = max(DIVIDERS, key=lambda one: _fit(_text(first), one, known))
    row = next(csv_cells(chain([first], found), _text, delimiter))
    if row.fault:
        raise unusable(f"{form.name}, line {first.number}: {row.fault.replace('it is', 'the head is', 1)}")
    columns = [name.strip() for name in row.cells]
    require_columns(columns, f"{form.name}, line {first.number}: the head")
    if not any(columns):
        raise unusable(f"{form.name}, line {first.number}: it has no head: name the columns there")
    return Head(columns, delimiter, _behind(row.lines[-1]))


def require_columns(columns: Sequence[str], where: str) -> None:
    """Raises Refusal(invalid_data) for too many columns, and for two of one name."""
    if len(columns) > MAX_COLUMNS:
        raise unusable(f"{where} has {len(columns)} columns, at most {MAX_COLUMNS} are read: leave some out")
    if twice := named_twice(columns):
        raise unusable(f"{where} names {twice[0]!r:.80} twice: name each column once")


def csv_rows(source: BinaryIO, form: FileForm, head: Head, at: Position) -> Iterator[Found]:
    """The rows from `at` on; cells are texts. Raises Refusal(invalid_data), as `pieces`."""
    at = max(at, head.end, key=lambda one: one.offset)
    last = at.line
    for row in csv_cells(lines(source, form, at), _text, head.delimiter):
        first, end = row.lines[0], row.lines[-1]
        # A fault of a line explains whatever else is strange.
        if any(line.is_too_long for line in row.lines):
            cells: dict[str, Any] | Refusal = too_long()
        elif why := _broken(row, form):
            cells = undecodable(why)
        elif row.fault:
            cells = undecodable(row.fault)
        elif row.cells:
            cells = _by_column(row.cells, head)
        else:
            require_rows_to_come(end.number - last, end.number, form)
            continue
        last = end.number
        yield Found(first.number, last, cells, _behind(end))


def _text(line: Line) -> str:
    return f"{line.text.decode('utf-8', 'replace')}\n"


def _behind(line: Line) -> Position:
    return Position(line.number, line.end)


def _broken(row: CsvRow[Line], form: FileForm) -> str:
    """Why its bytes are no text; empty: they are."""
    if not row.fault and not any("\ufffd" in cell or "\0" in cell for cell in row.cells):
        return ""
    return next(filter(None, (broken(line.text, form) for line in row.lines)), "")


def _by_column(row: list[str], head: Head) -> dict[str, Any] | Refusal:
    if len(row) != len(head.columns):
        divided = DIVIDERS.get(head.delimiter, f"the sign {head.delimiter!r}")
        return undecodable(
            f"it has {len(row)} cells between {divided}, and the head has {len(head.columns)}: make them agree, and "
            "put a text that holds such a sign in quotes"
        )
    return {name: cell for name, cell in zip(head.columns, row, strict=True) if name}


def _fit(head: str, delimiter: str, known: Collection[str]) -> tuple[int, int]:
    cells = cells_of(head, delimiter)
    return len({*cells} & {*known}), len(cells)
