"""Tables: what is copied from them stays whole, what is piped stays on its line."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from guideway.cli.console.output import print_table
from guideway.cli.console.tables import aligned, blocks, fitted, shared

ID = "b7cefc16-8e8e-4b71-a5a1-1a2f9bb7a6ab"
PROSE = "the instruction has more tokens than the model takes: shorten it, or use a larger model"


def drawn(columns: list[str], rows: list[list[str]], width: int) -> list[str] | None:
    table = fitted(columns, [[Text(cell) for cell in row] for row in rows], width)
    if table is None:
        return None
    written = io.StringIO()
    Console(file=written, width=width, force_terminal=False).print(table)
    return written.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_only_prose_is_broken(width: int) -> None:
    lines = drawn(["id", "what"], [[ID, PROSE], [ID, "short"]], width)
    assert lines is not None
    assert sum(ID in line for line in lines) == 2
    assert max(map(cell_len, lines)) <= width
    assert "".join(lines).count("…") == 0
    assert " ".join(" ".join(lines).replace(ID, "").split()).endswith("a larger model short")


def test_where_ids_have_no_room_there_is_no_table() -> None:
    assert drawn(["id", "other"], [[ID, ID]], 60) is None


def test_without_room_each_cell_has_a_line() -> None:
    assert blocks(["id", "what"], [["a", "b"], ["c", ""]]) == ["id    a", "what  b", "", "id    c", "what"]


def test_the_widest_gives_first() -> None:
    assert shared([10, 50, 30], [10, 20, 20], 70) == [10, 30, 30]
    assert shared([5, 5], [5, 5], 20) == [5, 5]


def test_rows_of_other_scripts_stay_below_each_other() -> None:
    lines = aligned([["id", "what"], ["日本語", "x"], ["é", "y"], ["e\u0301", "z"]])
    assert [cell_len(line[:-1]) for line in lines[1:]] == [8, 8, 8]


def test_a_piped_table_has_each_row_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "passage"), [(ID, f"{PROSE}\n{PROSE * 9}\x1b[2J"), ("b", "[/INST]")], title="Found\nhere")
    title, head, first, second = capsys.readouterr().out.splitlines()
    assert (title, head.split()) == (r"Found\nhere", ["id", "passage"])
    assert first.startswith(f"{ID}  {PROSE}\\n")
    assert first.endswith("\\u001b[2J")
    assert second.split() == ["b", "[/INST]"]
