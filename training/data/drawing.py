"""Draws rows of an archive, each text with the same chance, in memory that the sample bounds. Pure.

Which rows are drawn follows from what the archive holds and from a seed, not from the order in which it is read: those
whose texts have the lowest hashes (a bottom-k sample, Cohen and Kaplan 2007, https://doi.org/10.1145/1281100.1281133).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

from guideway.catalogue.archive.rows import Row
from guideway.training.data.archived import ArchivedExample, Reading, Taken
from guideway.training.data.records import invalid
from guideway.training.data.splits import key_of
from guideway.training.runs.task_data import ArchivedRows


class Drawing:
    """Takes rows one by one, in any order, and keeps so many of them. Owner of what is drawn so far."""

    def __init__(self, reading: Reading, wanted: ArchivedRows, known: frozenset[str] = frozenset()) -> None:
        """known: keys of texts that may not be learnt from, for they are reported on."""
        self._reading, self._wanted, self._known = reading, wanted, known
        self._corrected: dict[str, ArchivedExample] = {}
        self._texts: dict[str, str] = {}
        """Request id of a corrected row → key of its text."""
        self._drawn: dict[str, ArchivedExample] = {}
        self._ranks: list[tuple[int, str]] = []
        """A heap of (-rank, key) of what is drawn: the highest rank first."""
        self._passed = 0
        self.seen = 0
        """Rows so far, of whatever kind."""
        self.left_out: dict[str, int] = {}
        """Why rows were no examples → how many."""

    def add(self, row: Row) -> None:
        """A row passes."""
        self.seen += 1
        found = self._reading.example(row)
        if isinstance(found, str):
            self.left_out[found] = self.left_out.get(found, 0) + 1
            return
        key = key_of(found.text)
        if key in self._known:
            self.left_out["in data.eval"] = self.left_out.get("in data.eval", 0) + 1
            return
        self._passed += 1
        if found.kept.corrected:
            if self._texts.setdefault(row.id, key) != key:
                raise invalid(
                    f"the corrections name request id {row.id[:100]!r}, which archived rows with different texts have: "
                    "leave it out, for nobody knows which of them it corrects"
                )
            self._corrected[key] = _later(self._corrected.get(key), found)
        elif key in self._drawn:
            self._drawn[key] = _later(self._drawn[key], found)
        else:
            self._draw(key, found)

    def _draw(self, key: str, found: ArchivedExample) -> None:
        rank = self._rank(key)
        if len(self._drawn) >= self._wanted.sample:
            if rank >= -self._ranks[0][0]:
                return
            del self._drawn[heapq.heappop(self._ranks)[1]]
        heapq.heappush(self._ranks, (-rank, key))
        self._drawn[key] = found

    def rows(self) -> list[ArchivedExample]:
        """What is drawn, in order of its age: corrected rows, then others as far as there is room."""
        first = sorted(self._corrected, key=self._rank)[: self._wanted.sample]
        others = sorted(self._drawn.keys() - self._corrected.keys(), key=self._rank)
        chosen = [self._corrected[key] for key in first]
        chosen += [self._drawn[key] for key in others[: self._wanted.sample - len(chosen)]]
        return sorted(chosen, key=lambda one: one.age)

    def taken(self, rows: Sequence[ArchivedExample]) -> Taken:
        """What is told of these. rows: what is drawn."""
        left_out = dict(self.left_out)
        if over := self._passed - len(rows):
            left_out["of a text that another row has, or not drawn"] = over
        days: dict[str, int] = {}
        versions: dict[int, int] = {}
        for one in rows:
            days[one.kept.day] = days.get(one.kept.day, 0) + 1
            versions[one.version] = versions.get(one.version, 0) + 1
        return Taken(
            endpoint=self._wanted.endpoint,
            days=days,
            versions=dict(sorted(versions.items())),
            corrected=sum(one.kept.corrected for one in rows),
            left_out=left_out,
        )

    def _rank(self, key: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._wanted.seed} {key}".encode()).digest()[:16])


def _later(one: ArchivedExample | None, other: ArchivedExample) -> ArchivedExample:
    """Of two rows with the same text the one whose answer counts: the later one."""
    return other if one is None or other.age > one.age else one
