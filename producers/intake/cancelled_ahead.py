"""Remembers requests whose cancellation stands behind them in their topic and is not reached yet. Pure."""

from __future__ import annotations

from typing import Final

from guideway.schemas.services.cancellation import HELD_S

LIMIT: Final = 10_000
"""Cancelled ids of one namespace. Beyond that the oldest is forgotten, and its tombstone takes effect when reached."""


class CancelledAhead:
    """Tombstones that were found, by namespace, event topic and id. Times are those of records, Unix milliseconds."""

    def __init__(self, *, limit: int = LIMIT) -> None:
        self._limit = limit
        self._found: dict[str, dict[tuple[str, str], int]] = {}

    def note(self, namespace: str, topic: str, id_: str, at_ms: int) -> None:
        """A tombstone for this id was written at `at_ms`."""
        found = self._found.setdefault(namespace, {})
        found[topic, id_] = max(at_ms, found.pop((topic, id_), at_ms))
        if len(found) > self._limit:
            del found[next(iter(found))]

    def cancels(self, namespace: str, topic: str, id_: str, written_ms: int) -> bool:
        """Whether an event of this id, written at `written_ms`, is cancelled. An hour later it is a new request."""
        at_ms = self._found.get(namespace, {}).get((topic, id_))
        return at_ms is not None and written_ms - at_ms < HELD_S * 1000

    def forget(self, namespace: str, topic: str) -> None:
        """The pipeline has read all of this topic that was read ahead."""
        found = self._found.get(namespace, {})
        for key in [key for key in found if key[0] == topic]:
            del found[key]
        if not found:
            self._found.pop(namespace, None)
