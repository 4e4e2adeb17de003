"""Which rows of a piece are sent, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from guideway.producers.batch.stored import Index, SentRow, StoredRow


def sending_order(rows: Iterable[tuple[int, SentRow]]) -> list[tuple[int, SentRow]]:
    """The rows (number, row) of one piece, those of one endpoint and guidance together, each in the file's order.

    Rows that meet in a micro-batch then share adapters, beginnings and lengths of answers. A row is overtaken by no
    more than the rest of its piece, so that no endpoint of the file waits for long. What this is worth, and that an
    order by length is worth nothing more, is in docs/performance.md.
    """
    return sorted(rows, key=lambda one: (one[1].endpoint or "", one[1].guidance))


def rows_of(index: Index, number: int, rows: Sequence[StoredRow], wanted: Collection[int]) -> list[tuple[int, SentRow]]:
    """These rows of a piece, by their numbers."""
    numbered = enumerate(rows, start=index.firsts[number])
    return [(at, row) for at, row in numbered if at in wanted and isinstance(row, SentRow)]


def endpoints_of(index: Index, rows: Iterable[StoredRow]) -> set[int]:
    """The numbers of their endpoints."""
    return {index.number_of(row) for row in rows if isinstance(row, SentRow)}
