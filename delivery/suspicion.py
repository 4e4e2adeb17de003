"""Records that kill the whole process: how often owners died before they published anything, and what follows. Pure.

An engine that dies leaves the process that counts (`workers/engine_link.py`). Where a record takes that process along,
through memory or a container's limits, only the commit's metadata remembers: whoever begins work on a partition notes
it there, and the first result, or an orderly end, takes the note away. What stands there when the next owner comes was
a death. So with every life either results come out or the count rises, and a record that kills every owner is refused
in the end.
"""

from __future__ import annotations

from typing import Final

import msgspec

CAREFUL: Final = 2
"""Deaths after which records are worked on one at a time, the lowest first: what is in flight then is what kills."""
FATAL: Final = CAREFUL + 3
"""Deaths after which the lowest record is refused unseen."""


class Suspicion(msgspec.Struct, frozen=True):
    """What the deaths so far tell."""

    deaths: int = 0
    """Of owners in a row, each of which had begun work and published nothing."""
    until: int = 0
    """Offsets below it may hold the record that kills."""

    @property
    def is_careful(self) -> bool:
        """Whether one record at a time is worked on."""
        return self.deaths >= CAREFUL

    @property
    def refuses_lowest(self) -> bool:
        """Whether the lowest unfinished record has killed often enough."""
        return self.deaths >= FATAL

    def begun(self, low: int, window: int) -> Suspicion:
        """Noted before work begins; at most `window` offsets from `low` on may be in flight."""
        deaths = self.deaths + 1
        return Suspicion(deaths, max(self.until, low + window) if deaths >= CAREFUL else 0)

    def published(self, low: int) -> Suspicion:
        """After a result; `low` is the lowest unfinished offset now."""
        return Suspicion(CAREFUL, self.until) if self.is_careful and low < self.until else Suspicion()


NONE: Final = Suspicion()
