"""Which running rows give up their seats for a row that waits. Pure; no tensors here.

A row that gives up its seat waits again. It loses only the time in which it is taken in again, and that is bounded: a
row that comes back stays for as many tokens as make up for it, a seat moves only where the seats are then shared more
equally, and a seat that was given up is kept for a moment when its new row ends (`kept_seats.py`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from guideway.schemas.names.topics import LANES
from guideway.workers.engine.scheduling.row import Row

LEAST_RUN_TOKENS: Final = 32
"""A row that has come back generates at least so many tokens before it may be preempted for others."""
_MOST_RUN_TOKENS: Final = 512
"""A row that has come back may be preempted after so many tokens, however long it is: others wait."""
_TAKEN_IN_PER_RUN: Final = 16
"""A row that has come back may generate one token undisturbed for so many that it has to take in again."""
_BATCH_SEATS: Final = 8
"""The interactive lane leaves the batch lane one seat in so many."""
_ONE_LEFT: Final = 0.005
"""Less than one seat for the largest weight: whoever has credit leaves so much to others."""
_STANDS_OUT: Final = 2
"""Where a row is so many times as long as every row of other namespaces, its length makes the room scarce, and not the
number of rows."""


class Holding:
    """The seats that each namespace holds, counted once for a choice: most waiting rows have no claim, and that is then
    quick to see.
    """

    def __init__(self, running: Collection[Row], kept: Collection[str], *, seats: int) -> None:
        """kept: the namespaces for which a free seat is kept, once for each. seats: of the micro-batch."""
        self._held = Counter((row.lane, row.namespace) for row in running)
        self._held.update(("interactive", namespace) for namespace in kept)
        weights = {row.namespace: row.weight for row in running}
        self._most: dict[str, float] = {
            lane: max(
                ((n - 1) / weights.get(name, 1.0) for (of, name), n in self._held.items() if of == lane), default=0
            )
            for lane in LANES
        }
        self._rows = Counter(row.namespace for row in running)
        batch = sum(row.lane == "batch" for row in running)
        self._batch_gives = batch > seats // _BATCH_SEATS
        self._longest: dict[str, int] = {}
        for row in running:
            self._longest[row.namespace] = max(self._longest.get(row.namespace, 0), row.total_tokens)

    def may_claim(self, row: Row, *, lacks_room: bool, has_credit: bool) -> bool:
        """Whether `yielding` may find a row that gives up its seat for `row`, which waits."""
        if row.lane == "interactive" and self._batch_gives:
            return True
        held = self._held[row.lane, row.namespace]
        if has_credit and any(n > 1 and row.lane == lane for (lane, _), n in self._held.items()):
            return True
        return self._most[row.lane] >= (held + 1) / row.weight or (lacks_room and not held)

    def is_full(self, row: Row) -> bool:
        """Whether as many rows of its namespace run as may."""
        most = row.admit.most_rows
        return most is not None and self._rows[row.namespace] >= most

    def stands_out(self, row: Row) -> bool:
        """Whether `row`, which waits, may be `outsized` beside the running rows."""
        others = max((n for name, n in self._longest.items() if name != row.namespace), default=0)
        return row.total_tokens >= _STANDS_OUT * others


def run_tokens(row: Row) -> int:
    """How many tokens a preempted row generates, once it has a seat again, before it may be preempted for others."""
    return min(_MOST_RUN_TOKENS, max(LEAST_RUN_TOKENS, row.total_tokens // _TAKEN_IN_PER_RUN))


def undisturbed_tokens(row: Row, *, interactive_waits: bool) -> int:
    """How many tokens a row that gets a seat now generates before it may be preempted for others.

    interactive_waits: whether rows of the interactive lane wait.
    """
    least = run_tokens(row) if row.preempted else 0
    if row.lane == "batch" and interactive_waits:
        # It has the one turn in eight of the batch lane; preempted at once, it would get nothing done in it.
        return max(least, LEAST_RUN_TOKENS)
    return least


def yielding(
    row: Row,
    running: Collection[Row],
    movable: Collection[Row],
    *,
    seats: int,
    kept: Mapping[str, int],
    lacks_room: bool,
    share: int,
    has_credit: Callable[[Row], bool] = lambda row: False,
) -> Iterator[Row]:
    """The rows of `running` that give up their seats for `row`, which waits: as many as the caller takes.

    Rows of the batch lane give way to the interactive lane, down to one seat in eight. Within a lane, the namespace
    that holds most seats for its weight gives way to one that then holds no more for its own: of equal weights, to one
    that holds at least two fewer. Where room lacks, a row that is `outsized` gives way to a namespace that holds no
    seat; and for a row that would itself take more than its namespace's `share` of the room, no row of its own lane
    goes.

    A namespace that has credit takes seats of those that have none, and leaves each of these one. Its own seats go only
    to others that have credit, and to a namespace that holds none.

    movable: the rows that may be preempted now. seats: of the micro-batch. kept: the free seats that are kept, by
    namespace. share: of the room, tokens. In a namespace, the row that is cheapest to take in again goes first; of
    equal rows, the last one admitted. Where room lacks, the longest row goes first.
    """
    if row.lane == "interactive":
        batch = [other for other in running if other.lane == "batch"]
        yield from itertools.islice(
            _of_those_that_hold_most(batch, movable, 0.0, {}, lacks_room), max(0, len(batch) - seats // _BATCH_SEATS)
        )
        running = [other for other in running if other.lane == "interactive"]
    else:
        running, kept = [other for other in running if other.lane == "batch"], {}
    if lacks_room and room_costs([*running, row])[row.namespace] > share:
        return
    held = sum(other.namespace == row.namespace for other in running) + kept.get(row.namespace, 0)
    others = [other for other in running if other.namespace != row.namespace]
    large = outsized(others, share=share) if lacks_room and not held else None
    if large is not None and large in movable:
        yield large
        others.remove(large)
    if not has_credit(row):
        robbed = movable if not held else {other for other in movable if not has_credit(other)}
        yield from _of_those_that_hold_most(others, robbed, (held + 1) / row.weight, kept, lacks_room)
        return
    without = {other for other in movable if not has_credit(other)}
    for other in _of_those_that_hold_most(others, without, _ONE_LEFT, kept, lacks_room):
        yield other
        others.remove(other)
    yield from _of_those_that_hold_most(others, movable, (held + 1) / row.weight, kept, lacks_room)


def _of_those_that_hold_most(
    rows: list[Row], movable: Collection[Row], least: float, kept: Mapping[str, int], lacks_room: bool
) -> Iterator[Row]:
    """Rows that go, each of the namespace that then holds most seats for its weight, while it keeps `least` or more."""
    rows, held = list(rows), Counter(row.namespace for row in rows)
    held.update(kept)
    while True:
        may_go = [row for row in rows if row in movable and (held[row.namespace] - 1) / row.weight >= least]
        if not may_go:
            return

        def loss(row: Row) -> tuple[float, int]:
            return -held[row.namespace] / row.weight, -row.total_tokens if lacks_room else row.cached_tokens

        # Of equals `min` takes the first: the last one admitted.
        gone = min(reversed(may_go), key=loss)
        yield gone
        rows.remove(gone)
        held[gone.namespace] -= 1


def last_of_most(running: Collection[Row]) -> Row:
    """The row that is preempted where `running`, in the order of their admission, outgrow the room.

    Rows of the batch lane go first, then rows of the namespace whose rows have the most tokens; of equals the last one
    admitted. The first one admitted never goes. running: two rows at least.
    """
    held: Counter[str] = Counter()
    for row in running:
        held[row.namespace] += row.total_tokens
    _, *others = running
    # Of equals `max` takes the first: the last one admitted.
    return max(reversed(others), key=lambda row: (row.lane == "batch", held[row.namespace]))


def room_costs(rows: Collection[Row]) -> Counter[str]:
    """The tokens of room that each namespace takes: those of its rows."""
    costs: Counter[str] = Counter()
    for row in rows:
        costs[row.namespace] += row.total_tokens
    return costs


def outsized(rows: Collection[Row], *, share: int) -> Row | None:
    """The longest of `rows`, if it makes its namespace take more than `share` tokens of the room and stands out: it is
    at least twice as long as every row of other namespaces. Else None.
    """
    longest = max(rows, key=lambda row: row.total_tokens, default=None)
    if longest is None or room_costs(rows)[longest.namespace] <= share:
        return None
    others = max((row.total_tokens for row in rows if row.namespace != longest.namespace), default=0)
    return longest if longest.total_tokens >= _STANDS_OUT * others else None
