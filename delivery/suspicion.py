"""Records that kill the whole process: how many owners died before the lowest offset was finished. Pure.

An engine that dies leaves the process that counts (`workers/engine_link.py`). Where a record takes that process along,
through memory or a container's limits, only the commit's metadata remembers: before an owner begins work on a partition
it notes so there, every commit says whether work is still under way, and an orderly end takes the note away. If it
stands there when the next owner comes, that was a death. A record that kills stays unfinished until it is the lowest;
from then on every death counts, fewer and fewer records are worked on beside it, and in the end it is refused unseen.
"""

from __future__ import annotations

from typing import Final

import msgspec

GROUP: Final = 8
_GROUPED: Final = 2
"""Deaths after which `GROUP` records at most are worked on at a time, the lowest first."""
_SINGLE: Final = 3
"""Deaths after which one is: what killed was among the lowest `GROUP`."""
FATAL: Final = 5
"""Deaths after which the lowest is refused: it was alone when the last two owners died."""


class Suspicion(msgspec.Struct, frozen=True):
    """What the deaths of owners tell, since the lowest offset was last finished."""

    deaths: int = 0
    until: int = 0
    """Offsets below it may hold the record that kills."""
    begun: bool = False
    """Work is under way: should the next owner read this, the one before has died."""

    @property
    def width(self) -> int | None:
        """How many records may be worked on at a time; None: any number."""
        if self.deaths < _GROUPED:
            return None
        return GROUP if self.deaths < _SINGLE else 1

    @property
    def refuses_lowest(self) -> bool:
        return self.deaths >= FATAL

    def taken_over(self, low: int, finished_above: int, window: int) -> Suspicion:
        """After an owner died in mid-work, as the next one sees it, who has begun nothing yet.

        `finished_above`: offsets known to be finished at or above `low`; `window`: how many unfinished ones the owner
        before may have had in flight.
        """
        deaths = self.deaths + 1
        reach = {_GROUPED: window, _SINGLE: GROUP}.get(deaths)
        until = self.until if reach is None else low + reach + finished_above
        return Suspicion(deaths, until if deaths >= _GROUPED else 0)

    def noted(self) -> Suspicion:
        """Work begins."""
        return Suspicion(self.deaths, self.until, begun=True)

    def ended(self) -> Suspicion:
        """Work has ended in order."""
        return Suspicion(self.deaths, self.until)

    def published(self, low: int, *, advanced: bool, under_way: bool) -> Suspicion:
        """After a commit with results: `low` is the lowest unfinished offset now, `advanced` whether it has moved."""
        begun = self.begun and under_way
        if not advanced:
            return Suspicion(self.deaths, self.until, begun)
        if self.deaths < _GROUPED or low >= self.until:
            return Suspicion(begun=begun)
        return Suspicion(min(self.deaths, _SINGLE), self.until, begun)


NONE: Final = Suspicion()
