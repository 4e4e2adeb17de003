"""The rooms and who imports whom, drawn from the imports: `python -m tests.rooms` writes docs/pictures/rooms.svg."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping, Set
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PICTURE: Final = ROOT / "docs" / "pictures" / "rooms.svg"
ROOMS: Final = ("schemas", "delivery", "catalogue", "producers", "workers", "training", "infra")
USECASES: Final = "usecases"
"""What stands on all rooms; it is a package of `src/guideway`, not a folder at the top."""
PROGRAM: Final = "guideway"
"""What stands above all of them: the command line and the settings."""
_WIDTH, _HEIGHT, _GAP, _RISE = 250, 74, 40, 56  # of a box, and between boxes, in pixels


def folder(room: str) -> Path:
    """Where a room's files lie."""
    top = ROOT / "src" / "guideway"
    return {PROGRAM: top, USECASES: top / USECASES}.get(room, ROOT / room)


def modules(room: str) -> list[Path]:
    """All files of a room. The program's are those of `src/guideway` that no other room has."""
    if room != PROGRAM:
        return sorted(folder(room).rglob("*.py"))
    top = folder(PROGRAM)
    return sorted([*top.glob("*.py"), *(top / "cli").rglob("*.py")])


def imported_rooms(path: Path) -> set[str]:
    """The rooms that one file imports from, wherever in it the import stands."""
    parts = (name.split(".") for name in imported(path))
    return {part[1] for part in parts if part[0] == "guideway" and len(part) > 1 and part[1] in {*ROOMS, USECASES}}


def imported(path: Path) -> set[str]:
    """The modules that one file imports, and the names that it takes from them: `typer`, `guideway.cli.console`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def arrows() -> dict[str, set[str]]:
    """Each room with the rooms that it imports."""
    return {
        room: set[str]().union(*(imported_rooms(path) for path in modules(room))) - {room}
        for room in (*ROOMS, USECASES, PROGRAM)
    }


def levels(below: Mapping[str, Set[str]]) -> dict[str, int]:
    """How deep each room stands: 0 for what nobody imports, else one below the lowest of those who import it.

    Raises ValueError where imports go in a circle.
    """
    found: dict[str, int] = {}
    while len(found) < len(below):
        above = {room: [one for one in below if room in below[one]] for room in below if room not in found}
        ready = [room for room, users in above.items() if set(users) <= set(found)]
        if not ready:
            raise ValueError(f"imports go in a circle among {sorted(above)}")
        found |= {room: 1 + max((found[one] for one in above[room]), default=-1) for room in ready}
    return found


def picture() -> str:
    """An SVG with those arrows that no other way through the rooms repeats."""
    below = arrows()
    level = levels(below)
    rows = [[room for room in below if level[room] == depth] for depth in range(max(level.values()) + 1)]
    width = max(len(row) for row in rows) * (_WIDTH + _GAP) + _GAP
    height = len(rows) * (_HEIGHT + _RISE)
    place = {
        room: ((width - len(row) * (_WIDTH + _GAP) + _GAP) // 2 + at * (_WIDTH + _GAP), depth * (_HEIGHT + _RISE) + 28)
        for depth, row in enumerate(rows)
        for at, room in enumerate(row)
    }
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
            ' font-family="sans-serif">',
            "<title>Rooms of guideway: an arrow points at what is imported</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6"'
            ' orient="auto"><path d="M0 0 8 4 0 8z" fill="#456"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *(_arrow(place[room], place[one]) for room in below for one in sorted(below[room] - _through(below, room))),
            *(_box(room, *place[room]) for room in below),
            "</svg>\n",
        ]
    )


def _through(below: Mapping[str, Set[str]], room: str) -> set[str]:
    """What a room reaches through another one that it imports."""
    found: set[str] = set()
    waiting = list(below[room])
    while waiting:
        new = below[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH // 2, start[1] + _HEIGHT, end[0] + _WIDTH // 2, end[1]
    # Straight down past the boxes between, then aside in the gap above the end.
    turn = y2 - _RISE
    way = f"M{x1} {y1} V{turn} C{x1} {turn + _RISE // 2} {x2} {turn + _RISE // 2} {x2} {y2}"
    return f'<path d="{way}" fill="none" stroke="#456" stroke-width="1.5" marker-end="url(#head)"/>'


def _box(room: str, x: int, y: int) -> str:
    file = folder(room) / "__init__.py"
    said = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
    name = {PROGRAM: "src/guideway/cli/", USECASES: "src/guideway/usecases/"}.get(room, f"{room}/")
    lines = textwrap.wrap(said, 38, max_lines=3, placeholder=" …")
    texts = [f'<text x="{x + 12}" y="{y + 20}" font-size="14" font-weight="bold">{escape(name)}</text>']
    texts += [
        f'<text x="{x + 12}" y="{y + 36 + 13 * at}" font-size="11" fill="#345">{escape(line)}</text>'
        for at, line in enumerate(lines)
    ]
    box = f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="#eef4fa" stroke="#456"/>'
    return "\n".join([box, *texts])


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(), encoding="utf-8")
