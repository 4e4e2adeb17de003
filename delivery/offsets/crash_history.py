"""Finds records that kill whole processes, by counting the owners that died at one lowest offset. Pure.

A record that kills only the engine is counted by the process around it (`workers/engine_client.py`). A record may kill
that process as well, through its memory or a container's limits. Then only the commit's metadata remembers:

1. Before an owner begins work on a partition, it commits a *note* that work is under way.
2. Each later commit says whether that is still so. An orderly end takes the note back.
3. A next owner that reads the note learns that the owner before has died, or has handed over in haste: its last flush
   took too long, or its session ran out while its loop was blocked.
4. The note names its owner by a *token* that no other process has. The token is also in the group's list of members
   (`client_id`), and a member is alive. Each takeover asks for that list, and asks about all owners that were taken
   for dead: a process dies once at most.

A record that kills stays unfinished until it is the lowest one. From then on each death counts. Fewer and fewer records
are worked on beside it, and after `FATAL` deaths it is refused without being worked on.
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
"""Deaths after which one record is worked on at a time: the one that kills was among the lowest `GROUP`."""
FATAL: Final = 5
"""Deaths after which the lowest is refused: it was alone when the last two owners died."""


def new_token() -> int:
    """A token for one pipeline. It is above all numbers that stand for owners without a token (`unnamed`)."""
    return 2**31 + secrets.randbelow(2**32)


class CrashHistory(msgspec.Struct, frozen=True):
    """The deaths of owners since the lowest offset was last finished, and whether work is under way."""

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
        """How many owners died."""
        return len(self.dead)

    @property
    def width(self) -> int | None:
        """How many records may be worked on at a time; None: any number."""
        if self.deaths < _GROUPED:
            return None
        return GROUP if self.deaths < _SINGLE else 1

    @property
    def refuses_lowest(self) -> bool:
        """Whether the lowest unfinished record is refused without being worked on."""
        return self.deaths >= FATAL

    def taken_over(self, low: int, finished_above: int, window: int, alive: Collection[int]) -> CrashHistory:
        """The history for the next owner, which has begun nothing yet.

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
        """The history once this owner (a token) has noted that work is under way."""
        return CrashHistory(self.dead, self.until, begun=True, owner=owner)

    def ended(self) -> CrashHistory:
        """The history once the note is taken back, at an orderly end."""
        return CrashHistory(self.dead, self.until)

    def published(self, low: int, *, advanced: bool, under_way: bool) -> CrashHistory:
        """The history after a commit with results.

        `low`: the lowest unfinished offset now; `advanced`: it has moved; `under_way`: records are unfinished.
        """
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
