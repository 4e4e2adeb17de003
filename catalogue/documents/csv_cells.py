"""Lines of CSV → the cells of each row. Pure.

A quote that does not close costs its own line, not what comes after it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

DIVIDERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What divides cells, and its name."""
SEP: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""A line before the head that tells Excel the divider of cells."""
MAX_ROW_CHARS: Final = 8 * 2**20
"""The longest row; what is longer is a quote that does not close."""
_AGAIN_CHARS: Final = 64 * 2**20
"""So much is read a second time behind quotes that do not close, and no more: whoever writes one in each line would
have all of them read again for each."""
_SPACED: Final = (
    "a space stands before the quote of a cell, which makes the quote a part of the text: remove the space, or, if the "
    "text begins so, put all of it in quotes and write its own quotes twice"
)

L = TypeVar("L")


class CsvRow(NamedTuple, Generic[L]):
    """One row."""

    lines: list[L]
    """The lines that it has, at least one."""
    cells: list[str]
    """None of a blank line, and none where there is a fault."""
    fault: str
    """Why it is no row, and what to change; empty: it is one."""


def csv_cells(lines: Iterable[L], text: Callable[[L], str], delimiter: str) -> Iterator[CsvRow[L]]:
    """The rows of these lines, blank ones too.

    text: of a line, with its end. delimiter: one character. Raises what `lines` raises.
    """
    csv.field_size_limit(MAX_ROW_CHARS)
    feed = _Feed(iter(lines), text)
    reader = csv.reader(feed, strict=True, delimiter=delimiter)
    while True:
        feed.begin()
        cells, fault = list[str](), ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong:
            feed.give_back()
            fault = (
                f"its quote does not close within {MAX_ROW_CHARS // 2**20} MiB: close it, or write it twice if the "
                "text begins with it"
            )
        except csv.Error as error:
            feed.give_back()
            fault = f"it is no CSV: {_told(error)}"
        else:
            if _is_spaced(cells, map(text, feed.row), delimiter):
                cells, fault = [], _SPACED
        yield CsvRow(feed.row, cells, fault)


def cells_of(line: str, delimiter: str) -> list[str]:
    """The cells of one line, without the spaces around them; none if this divider does not fit."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def named_twice(head: Sequence[str]) -> list[str]:
    """Names that more than one column has."""
    return sorted({name for name in head if name and head.count(name) > 1})


def _is_spaced(cells: list[str], lines: Iterable[str], delimiter: str) -> bool:
    """Whether a quote that was meant to begin a cell has a space before it. lines: of the row."""
    if not any(cell[:1] == " " and cell.lstrip(" ")[:1] == '"' for cell in cells):
        return False
    # A text in quotes may begin so too: it is the same whether spaces before quotes are passed over or not.
    bare = csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=True)
    try:
        others = next(bare, [])
    except csv.Error:
        return True
    return len(others) != len(cells) or any(
        cell != other and cell.lstrip(" ")[:1] == '"' for cell, other in zip(cells, others, strict=True)
    )


def _told(error: csv.Error) -> str:
    said = str(error)
    if "expected after" in said:
        return (
            "a quote stands within a quoted cell: a quotation mark within quotes is written twice, else close the cell"
        )
    if "end of data" in said:
        return "a quote in it is not closed until the file ends: close it"
    if "field larger" in said:
        return f"a quote does not close within {MAX_ROW_CHARS // 2**20} MiB: close it"
    if "new-line" in said:
        return "it holds a carriage return outside of quotes: end all lines alike, or put the cell in quotes"
    return said[:100]


class _TooLong(Exception):
    """A row has more characters than a row may have."""


class _Feed(Iterator[str], Generic[L]):
    """The lines for a reader of CSV, and which of them the present row has."""

    def __init__(self, lines: Iterator[L], text: Callable[[L], str]) -> None:
        self._lines, self._text = lines, text
        self._back: list[L] = []
        self._again_chars = self._row_chars = 0
        self.row: list[L] = []

    def begin(self) -> None:
        """A row begins."""
        self.row, self._row_chars = [], 0

    def give_back(self) -> None:
        """Only the first line is the row; those after it are read again, as long as that is not too much."""
        if self._again_chars + self._row_chars <= _AGAIN_CHARS:
            self._again_chars += self._row_chars
            self._back += reversed(self.row[1:])
            self.row = self.row[:1]

    def __next__(self) -> str:
        if self._row_chars > MAX_ROW_CHARS:
            raise _TooLong
        line = self._back.pop() if self._back else next(self._lines)
        self.row.append(line)
        text = self._text(line)
        self._row_chars += len(text)
        return text
