"""The lines of the values of a TOML document. Python's reader does not give them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any, Final

from guideway.catalogue.documents.faults import FieldPath

_MOST_LINES: Final = 300
"""The longest statement. A longer one, and all that follows it, has no known line."""


def line_of(text: str, place: FieldPath) -> int:
    """The line, from 1 on, where the value at `place` begins, or the nearest part that contains it."""
    best, depth = 1, 0
    for line, there in _statements(text):
        common = next((i for i, (a, b) in enumerate(zip(place, there, strict=False)) if a != b), len(there))
        common = min(common, len(place))
        # The first one of this depth: a table's heading comes before its values.
        if common > depth:
            best, depth = line, common
    return best


def _statements(text: str) -> Iterator[tuple[int, FieldPath]]:
    """(line, place) of each name and of each table's heading."""
    table: FieldPath = ()
    newest: dict[FieldPath, int] = {}
    """Array of tables → the number of its newest table."""
    begun, lines = 1, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun if lines else number
        lines.append(line)
        if len(lines) > _MOST_LINES:
            return
        try:
            place = _place(tomllib.loads("\n".join(lines)))
        except (ValueError, RecursionError):
            continue  # it goes on in the next line
        heading, lines = lines[0].lstrip(), []
        if not place:
            continue
        if heading.startswith("["):
            if heading.startswith("[["):
                place = place[:-1]
                array = (*_numbered(place[:-1], newest), place[-1])
                newest[array] = newest.get(array, -1) + 1
            table = _numbered(place, newest)
            yield begun, table
        else:
            yield begun, (*table, *place)


def _place(value: Any) -> FieldPath:
    """The place that one statement names: `a.b = 1` and `[a.b]` give ("a", "b"), `[[a]]` gives ("a", 0)."""
    match value:
        case dict() if len(value) == 1:
            ((name, inner),) = value.items()
            return (name, *_place(inner))
        case [inner]:
            return (0, *_place(inner))
    return ()


def _numbered(names: FieldPath, newest: dict[FieldPath, int]) -> FieldPath:
    """The names, with the number of the newest table after each array of tables."""
    place: FieldPath = ()
    for name in names:
        place = (*place, name)
        if place in newest:
            place = (*place, newest[place])
    return place
