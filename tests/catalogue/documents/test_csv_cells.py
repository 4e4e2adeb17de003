"""CSV as programs and people write it: cells, or a fault that costs its own row only."""

from __future__ import annotations

import pytest

from guideway.catalogue.documents.csv_cells import CsvRow, cells_of, csv_cells


def rows(text: str, delimiter: str = ",") -> list[CsvRow[str]]:
    return [*csv_cells(text.splitlines(keepends=True), str, delimiter)]


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('1,"a, ""b""\nc"\n', [["1", 'a, "b"\nc']]),
        ("1,The 5\" pipe\n2,it's\n", [["1", 'The 5" pipe'], ["2", "it's"]]),
        ("1, a \n\n2,b", [["1", " a "], [], ["2", "b"]]),
        ('1," ""a"", ""b"""\n', [["1", ' "a", "b"']]),
        ('1," """\n', [["1", ' "']]),
        ('1," ""a""","x, ""y"", z"\n', [["1", ' "a"', 'x, "y", z']]),
    ],
)
def test_cells_are_what_was_written(text: str, cells: list[list[str]]) -> None:
    assert [(row.cells, row.fault) for row in rows(text)] == [(one, "") for one in cells]


@pytest.mark.parametrize("text", ['1, "a"\n', '1, "a, b"\n', '1,x, "a"\n', ' "a",1\n', '1, ""\n', '1, "a\n'])
def test_a_quote_behind_a_space_is_no_part_of_a_text_unseen(text: str) -> None:
    bad, good = rows(f"{text}2,b\n")
    assert bad.fault.startswith("a space stands before the quote of a cell")
    assert not bad.cells
    assert good.cells == ["2", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('1,"open\n2,b\n"3",c\n', "a quote stands within a quoted cell"),
        ('1,"open\n2,b\n3,c\n', "is not closed until the file ends"),
        ('1,"a \\"b\\" c"\n2,b\n3,c\n', "a quote stands within a quoted cell"),
    ],
)
def test_a_quote_that_does_not_close_costs_its_own_line(text: str, words: str) -> None:
    bad, *good = rows(text)
    assert words in bad.fault
    assert len(bad.lines) == 1
    assert [row.cells for row in good] == [["2", "b"], ["3", "c"]]


def test_a_carriage_return_outside_of_quotes_is_told_as_that() -> None:
    bad, good = csv_cells(["1,a\r2,b\r\n", "3,c\r\n"], str, ",")
    assert "a carriage return outside of quotes" in bad.fault
    assert good.cells == ["3", "c"]


def test_a_cell_may_have_more_than_a_hundred_thousand_characters() -> None:
    (row,) = rows(f"1,{'w' * 1_000_000}\n")
    assert len(row.cells[1]) == 1_000_000


def test_a_divider_that_does_not_fit_has_no_cells() -> None:
    assert cells_of('a; "b" ;c', ";") == ["a", '"b"', "c"]
    assert cells_of("x" * 9_000_000, ",") == []
