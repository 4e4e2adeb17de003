"""Records that kill the whole process: how many owners died before the lowest offset was finished. Pure.

An engine that dies leaves the process that counts (`workers/engine_client.py`). Where a record takes that process
along, through memory or a container's limits, only the commit's metadata remembers: before an owner begins work on a
partition it notes so there, every commit says whether work is still under way, and an orderly end takes the note away.
If it stands there when the next owner comes, the one before has died, or it has handed over in haste: a flush that
took too long, a session that ran out while its loop was blocked. So the note has the owner's *token*, which no other
process has, and every token is in its group's list of members (`schemas.names.client_id`). Whoever is a member lives.
It is asked anew at each takeover, of all who were taken for dead: a process dies once at most.

A record that kills stays unfinished until it is the lowest; from then on every death counts, fewer and fewer records
are worked on beside it, and in the end it is refused unseen.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Final

import msgspec

GROUP: Final = 8
_GROUPED: Final = 2
"""Deaths after which `GROUP` records at most are worked on at a time, the lowest first."""
_SINGLE: Final = 3
"""Deaths after which one is: what killed was among the lowest `GROUP`."""
FATAL: Final = 5
"""Deaths after which the lowest is refused: it was alone when the last two owners died."""


def new_token() -> int:
    """Of a process, or rather of a pipeline in it; small numbers stand for owners without one."""
    return 2**31 + secrets.randbelow(2**32)


class CrashHistory(msgspec.Struct, frozen=True):
    """What the deaths of owners tell, since the lowest offset was last finished."""

    dead: tuple[int, ...] = ()
    """Tokens of owners that died, in their order; none twice."""
    until: int = 0
    """Offsets below it may hold the record that kills."""
    begun: bool = False
    """Work is under way: should the next owner read this, the one before has died, unless it still is a member."""
    owner: int = 0
    """Whose work that is; 0: of a version that did not say."""

    @property
    def deaths(self) -> int:
        return len(self.dead)

    @property
    def width(self) -> int | None:
        """How many records may be worked on at a time; None: any number."""
        if self.deaths < _GROUPED:
            return None
        return GROUP if self.deaths < _SINGLE else 1

    @property
    def refuses_lowest(self) -> bool:
        return self.deaths >= FATAL

    def taken_over(self, low: int, finished_above: int, window: int, alive: Collection[int]) -> CrashHistory:
        """As the next owner sees it, who has begun nothing yet.

        `finished_above`: offsets known to be finished at or above `low`; `window`: how many unfinished ones the owner
        before may have had in flight; `alive`: tokens of the group's members now.
        """
        dead = tuple(token for token in self.dead if token not in alive)
        died = self.begun and self.owner not in alive and (not self.owner or self.owner not in dead)
        if died:
            dead += (self.owner or _unnamed(dead),)
        reach = {_GROUPED: window, _SINGLE: GROUP}.get(len(dead)) if died else None
        until = self.until if reach is None else low + reach + finished_above
        return CrashHistory(dead, until if len(dead) >= _GROUPED else 0)

    def noted(self, owner: int) -> CrashHistory:
        """Work begins."""
        return CrashHistory(self.dead, self.until, begun=True, owner=owner)

    def ended(self) -> CrashHistory:
        """Work has ended in order."""
        return CrashHistory(self.dead, self.until)

    def published(self, low: int, *, advanced: bool, under_way: bool) -> CrashHistory:
        """After a commit with results: `low` is the lowest unfinished offset now, `advanced` whether it has moved."""
        begun = self.begun and under_way
        owner = self.owner if begun else 0
        if not advanced:
            return CrashHistory(self.dead, self.until, begun, owner)
        if self.deaths < _GROUPED or low >= self.until:
            return CrashHistory(begun=begun, owner=owner)
        return CrashHistory(self.dead[-_SINGLE:], self.until, begun, owner)


def unnamed(count: int) -> tuple[int, ...]:
    """Tokens for so many owners that were noted without one."""
    return tuple(range(1, count + 1))


def _unnamed(dead: Collection[int]) -> int:
    return next(token for token in unnamed(len(dead) + 1) if token not in dead)


NONE: Final = CrashHistory()
