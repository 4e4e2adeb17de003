"""How wide the columns of a table are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_GAP: Final = 2
"""Between two columns."""
_PROSE: Final = 24
"""A cell that is wider than this and has spaces may be broken into lines, down to this width."""
_WIDEST: Final = 60
"""What is wider than this does not push the columns behind it away, where lines are not broken."""


def fitted(columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int) -> Table | None:
    """A table of at most `width` cells, in which only prose is broken into lines; None where there is no room for it.

    What has no spaces (an id, a topic, an address) stays in one piece, for whoever copies it, unless it is long and
    stands in prose.
    """
    cells = [[Text(name), *(row[place] for row in rows)] for place, name in enumerate(columns)]
    widths = [max(max(map(cell_len, one.plain.split("\n"))) for one in column) for column in cells]
    prose = [any(_is_prose(one.plain) for one in column[1:]) for column in cells]
    room = width - _GAP * (len(columns) - 1)
    if sum(widths) > room:
        needed = [
            min(_longest_word(column), size, _PROSE) if soft else size
            for column, size, soft in zip(cells, widths, prose, strict=True)
        ]
        if sum(needed) > room or not any(prose):
            return None
        widths = shared(widths, needed, room)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0), collapse_padding=True)
    for name, size in zip(columns, widths, strict=True):
        table.add_column(name, width=size, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def shared(widths: Sequence[int], needed: Sequence[int], room: int) -> list[int]:
    """Widths that add up to `room`: the widest gives first, and none becomes narrower than it needs."""
    given = list(widths)
    while sum(given) > room:
        widest = max((size, place) for place, size in enumerate(given) if size > needed[place])[1]
        given[widest] -= 1
    return given


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Each row on one line, its cells below those of the row before, for `grep`."""
    widths = [min(_WIDEST, max(map(cell_len, column))) for column in zip(*rows, strict=True)]
    return [
        (" " * _GAP).join(cell + " " * (size - cell_len(cell)) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def blocks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Each cell on a line of its own, behind the name of its column; for a terminal that is too narrow."""
    widest = max(map(cell_len, columns))
    lines: list[str] = []
    for row in rows:
        lines += [""] * bool(lines)
        lines += [f"{name.ljust(widest)}  {cell}".rstrip() for name, cell in zip(columns, row, strict=True)]
    return lines


def _is_prose(text: str) -> bool:
    return " " in text and cell_len(text) > _PROSE


def _longest_word(column: Sequence[Text]) -> int:
    return max((cell_len(word) for one in column for word in one.plain.split()), default=0)
