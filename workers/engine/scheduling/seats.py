"""Who gives up a seat for whom, so that nobody's rows hold for long what others wait for. Pure; no tensors here.

A row that gives up its seat waits again and loses nothing but the time in which it is taken in again. What that costs
is bounded: a row that comes back stays for as many tokens as make up for it, seats are moved only where they come to be
shared more equally by it, and whoever got a seat that way has it kept for a moment when its row ends.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from guideway.schemas.names import LANES
from guideway.workers.engine.scheduling.row import Row

LEAST_RUN_TOKENS: Final = 32
"""A row that has come back generates so many before it may have to go again, or more, by what it costs to take in."""
_MOST_RUN_TOKENS: Final = 512
"""No more than so many, whatever it costs: others wait."""
_TAKEN_IN_PER_RUN: Final = 16
"""Tokens taken in again for each that it then generates undisturbed."""
_BATCH_SEATS: Final = 8
"""One seat in so many stays with the batch lane, where it has one."""
_STANDS_OUT: Final = 2
"""A row so many times as long as all rows of others makes the room scarce, and not their number."""


class Holding:
    """Who holds what of the seats, counted once for all that wait: most can be told quickly that they have no claim."""

    def __init__(self, running: Collection[Row], kept: Collection[str], *, seats: int) -> None:
        """kept: the namespaces for which a seat is kept that no row has, once for each."""
        self._held = Counter((row.lane, row.namespace) for row in running)
        self._held.update(("interactive", namespace) for namespace in kept)
        self._most: dict[str, int] = {
            lane: max((n for (of, _), n in self._held.items() if of == lane), default=0) for lane in LANES
        }
        batch = sum(row.lane == "batch" for row in running)
        self._batch_gives = batch > seats // _BATCH_SEATS
        self._longest: dict[str, int] = {}
        for row in running:
            self._longest[row.namespace] = max(self._longest.get(row.namespace, 0), row.total_tokens)

    def may_claim(self, row: Row, *, lacks_room: bool) -> bool:
        """Whether `yielding` may find somebody who gives up a seat for `row`."""
        if row.lane == "interactive" and self._batch_gives:
            return True
        held = self._held[row.lane, row.namespace]
        return self._most[row.lane] >= held + 2 or (lacks_room and not held)

    def stands_out(self, row: Row) -> bool:
        """Whether `row`, which waits, may be `outsized` beside those that run."""
        others = max((n for name, n in self._longest.items() if name != row.namespace), default=0)
        return row.total_tokens >= _STANDS_OUT * others


def run_tokens(row: Row) -> int:
    """How many tokens a row that comes back generates before it may have to go again."""
    return min(_MOST_RUN_TOKENS, max(LEAST_RUN_TOKENS, row.total_tokens // _TAKEN_IN_PER_RUN))


def yielding(
    row: Row,
    running: Collection[Row],
    movable: Collection[Row],
    *,
    seats: int,
    kept: Mapping[str, int],
    lacks_room: bool,
    share: int,
) -> Iterator[Row]:
    """Who of `running` gives up its seat for `row`, which waits, one after the other until it can be seated.

    Rows of the batch lane give way to the interactive lane, down to one seat in eight. Within a lane, the namespace
    that holds most gives way to one that holds at least two seats less: afterwards they are more equal. Where it is
    room that lacks, a row that takes it from the others gives way to a namespace that holds nothing; and a row that
    would itself take more than its namespace's `share` of the room is no reason for others of its lane to go.

    movable: those that may go now. kept: seats that no row has, by the namespace for which they are kept. Of a
    namespace's rows the one goes first that is taken in again at the least cost, the last one admitted of equals; where
    room lacks, the longest.
    """
    if row.lane == "interactive":
        batch = [other for other in running if other.lane == "batch"]
        yield from itertools.islice(
            _of_those_that_hold_most(batch, movable, 0, {}, lacks_room), max(0, len(batch) - seats // _BATCH_SEATS)
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
    yield from _of_those_that_hold_most(others, movable, held + 2, kept, lacks_room)


def _of_those_that_hold_most(
    rows: list[Row], movable: Collection[Row], least: int, kept: Mapping[str, int], lacks_room: bool
) -> Iterator[Row]:
    """One after the other of the namespace that holds most by then, as long as that is `least` seats or more."""
    rows, held = list(rows), Counter(row.namespace for row in rows)
    held.update(kept)
    while True:
        may_go = [row for row in rows if row in movable and held[row.namespace] >= least]
        if not may_go:
            return

        def loss(row: Row) -> tuple[int, int]:
            return -held[row.namespace], -row.total_tokens if lacks_room else row.cached_tokens

        # Of equals `min` takes the first: the last one admitted.
        gone = min(reversed(may_go), key=loss)
        yield gone
        rows.remove(gone)
        held[gone.namespace] -= 1


def room_costs(rows: Collection[Row]) -> dict[str, int]:
    """What each namespace takes of the room, tokens; `rows` need their number times the longest, as they lie in memory.

    A namespace whose n rows are up to l tokens long takes n · l, and where those of m others are up to L < l long,
    m · (l - L) on top: what its long one makes the others' rows need.
    """
    count = Counter(row.namespace for row in rows)
    longest: dict[str, int] = {}
    for row in rows:
        longest[row.namespace] = max(longest.get(row.namespace, 0), row.total_tokens)
    costs = {}
    for name, most in longest.items():
        others = max((tokens for other, tokens in longest.items() if other != name), default=most)
        costs[name] = count[name] * most + (len(rows) - count[name]) * max(0, most - others)
    return costs


def outsized(rows: Collection[Row], *, share: int) -> Row | None:
    """The longest row, where it makes its namespace take more than `share` of the room and stands out among others."""
    longest = max(rows, key=lambda row: row.total_tokens, default=None)
    if longest is None or room_costs(rows)[longest.namespace] <= share:
        return None
    others = max((row.total_tokens for row in rows if row.namespace != longest.namespace), default=0)
    return longest if longest.total_tokens >= _STANDS_OUT * others else None
