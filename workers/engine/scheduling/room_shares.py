"""How long a row is held back that would take more than its namespace's share of the room. Pure; no tensors here."""

from __future__ import annotations

from collections import Counter
from typing import Final

from guideway.workers.engine.scheduling.row import Row

_PATIENCE_STEPS: Final = 256
"""How long such a row is overtaken where it does not fit."""


class RoomShares:
    """Owner of the rows that are held back, and of how long each namespace was beyond its share of the room.

    A row that is held back waits for as many steps as such rows of its namespace have kept others from the room
    before, and for `_PATIENCE_STEPS` more where it does not fit.
    """

    def __init__(self) -> None:
        self._held_back: dict[Row, int] = {}
        """The rows that are held back → the step since which they are."""
        self._beyond: Counter[str] = Counter()
        """Steps of each namespace beyond its share of the room, while others waited for room."""
        self._lacking: set[str] = set()
        """Namespaces for whose next row there was no room at the last choice."""

    @property
    def is_scarce(self) -> bool:
        """Whether some row found no room at the last choice."""
        return bool(self._lacking)

    def begin_choice(self) -> None:
        """Forget who found no room at the choice before."""
        self._lacking.clear()

    def lacks_room(self, namespace: str) -> None:
        """Note that there is no room for the next row of `namespace`."""
        self._lacking.add(namespace)

    def holds_back(self, row: Row, step: int, *, lacks_room: bool) -> bool:
        """Whether `row`, which would take more than its namespace's share, is still held back at `step`."""
        since = self._held_back.setdefault(row, step)
        patience = _PATIENCE_STEPS if lacks_room else 0
        return step - since < patience + self._beyond[row.namespace]

    def count_beyond(self, namespace: str) -> None:
        """Count one step in which a row of `namespace` took more than its share, if others lacked room."""
        self._beyond[namespace] += bool(self._lacking - {namespace})

    def is_one_namespace(self) -> None:
        """Forget the counts: a namespace that is alone takes nothing from others."""
        self._beyond.clear()

    def take(self, row: Row) -> None:
        """Note that `row` was admitted: if it had been held back, its namespace has paid for the steps beyond."""
        if self._held_back.pop(row, None) is not None:
            del self._beyond[row.namespace]

    def forget(self, row: Row) -> None:
        """Note that `row` has ended."""
        self._held_back.pop(row, None)
