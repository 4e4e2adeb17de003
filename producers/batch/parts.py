"""Results of pieces as they stand in the store: each piece in one part, or in several that are read as one."""

from __future__ import annotations

from typing import IO

from guideway.producers.batch.stored import Damaged, Head, total
from guideway.schemas.services.batch import Counts


class Finished:
    """Which rows of which pieces have their results in the store."""

    def __init__(self) -> None:
        self.counts = Counts()
        """Of all of them."""
        self._places: dict[int, int] = {}
        self._whole: set[int] = set()

    def add(self, number: int, head: Head) -> None:
        """A part of the piece is there."""
        before = self._places.get(number, 0)
        now = self._places[number] = before | head.places
        if now != before:
            # Another batcher that did not know yet that it has lost the job may have written the same rows.
            self.counts = total([self.counts, head.counts])
        if now.bit_count() >= head.answerable:
            self._whole.add(number)

    def has(self, number: int, place: int) -> bool:
        """Whether the row at this place of the piece has its result."""
        return bool(self._places.get(number, 0) >> place & 1)

    def is_whole(self, number: int) -> bool:
        """Whether every row of the piece has."""
        return number in self._whole


class PieceResults:
    """The replies of one piece. Of a row that stands in two parts the first counts."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[IO[bytes], int, int]] = {}
        """By place: where its reply stands, and how long it is."""
        self._files: list[IO[bytes]] = []
        self.came: list[int] = []
        """The places, in the order in which they were answered."""

    def add(self, head: Head, file: IO[bytes], begin: int) -> None:
        """A part, whose replies begin there. Raises Damaged."""
        self._files.append(file)
        if len(head.sizes) != len(set(head.came)):
            raise Damaged("a part of its results does not have each row once")
        for place, size in zip(sorted(head.came), head.sizes, strict=True):
            self._at.setdefault(place, (file, begin, size))
            begin += size
        self.came += [place for place in head.came if self._at[place][0] is file]

    def __contains__(self, place: int) -> bool:
        return place in self._at

    def reply(self, place: int) -> bytes:
        """The reply to the row at this place, as JSON. Raises Damaged where it is not whole; KeyError."""
        file, begin, size = self._at[place]
        file.seek(begin)
        data = file.read(size)
        if len(data) != size:
            raise Damaged("a part of its results ends too early")
        return data

    def close(self) -> None:
        """Nothing is read any more."""
        for file in self._files:
            file.close()
