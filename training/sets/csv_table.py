"""Lines of a CSV file with a head → rows by column. A fault of a row is given in its place, beside good rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from guideway.catalogue.documents.csv_cells import DIVIDERS, SEP, csv_cells, named_twice
from guideway.training.sets.decoding import broken_at


class TableRow(NamedTuple):
    """One row."""

    number: int
    """From 1 on, after the head; blank lines are no rows."""
    where: str
    """`line 7`, or `lines 7 to 9`."""
    cells: dict[str, str] | None
    """Column → cell, without columns that have no name; None: it has more or fewer cells than the head."""
    fault: str
    """Why it cannot be read, and what to change; empty: it can."""


class CsvTable:
    """The head of a table, and then its rows, once."""

    def __init__(self, lines: Iterator[str], divider: Callable[[str], str]) -> None:
        """lines: with their ends, as `read_lines` gives them.

        divider: of cells, by the head's first line; it is not asked where a line `sep=` says it. Raises what it raises.
        """
        numbered = enumerate(lines, 1)
        self.head_line, first = next(numbered, (1, ""))
        said = SEP.fullmatch(first)
        if said:
            self.head_line, first = next(numbered, (2, ""))
        while first and not first.strip(" \r\n"):
            self.head_line, first = next(numbered, (self.head_line + 1, ""))
        self.fault = broken_at(first)
        """Why the head cannot be read; empty: it can."""
        self._divider = said[1] if said else "," if self.fault else divider(first)
        self._rows = csv_cells(chain([(self.head_line, first)], numbered), _text, self._divider)
        head = next(self._rows)
        self.fault = self.fault or head.fault
        self._columns = [name.strip() for name in head.cells]
        self.twice = named_twice(self._columns)
        """Names that more than one column has."""
        self.divided = DIVIDERS.get(self._divider, "the dividers that it names")
        """What divides cells, in words."""

    def rows(self) -> Iterator[TableRow]:
        """Those that are not blank, the bad ones too."""
        number = 0
        for row in self._rows:
            if not row.cells and not row.fault:
                continue
            number += 1
            first, last = row.lines[0][0], row.lines[-1][0]
            where = f"line {first}" if first == last else f"lines {first} to {last}"
            fault = next(filter(None, (broken_at(line) for _, line in row.lines)), "") or row.fault
            fits = not fault and len(row.cells) == len(self._columns)
            cells = dict(zip(self._columns, row.cells, strict=True)) if fits else None
            if cells is not None:
                # A column without a name comes from a divider at the end of lines, or numbers the rows.
                cells.pop("", None)
            yield TableRow(number, where, cells, fault)


def _text(line: tuple[int, str]) -> str:
    return line[1]
