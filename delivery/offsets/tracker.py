"""Which offsets of one input partition are finished. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from guideway.delivery.offsets.commit_metadata import encode
from guideway.delivery.offsets.crash_history import NONE, CrashHistory


class Commit(msgspec.Struct, frozen=True):
    """What one transaction writes beside its results. Everything below `low` is finished, and everything in `done`."""

    low: int
    done: frozenset[int]
    crashes: CrashHistory = NONE

    @property
    def metadata(self) -> str:
        """The text that is committed beside `low`."""
        return encode(self.low, self.done, self.crashes)


class OffsetTracker:
    """Offsets of one partition, from reception to commit. Owned by that partition's driver.

    `position`       the next offset that was not received; transaction markers and compaction leave gaps below it
    `pending`        received and unfinished
    `done`           finished and committed, at or above `low`
    `crashes`        the deaths of earlier owners
    `committed_low`  the offset of the last commit
    """

    def __init__(self, low: int, done: Iterable[int] = (), crashes: CrashHistory = NONE) -> None:
        self.crashes = crashes
        self.committed_low = low
        self._position = low
        self._pending: set[int] = set()
        self._done = {offset for offset in done if offset >= low}

    @property
    def low(self) -> int:
        """The lowest offset that is not known to be finished."""
        return self._low_of(self._pending)

    @property
    def pending(self) -> Collection[int]:
        """The offsets that were received and are not finished."""
        return self._pending

    def receive(self, offset: int) -> bool:
        """Take note of a record read; False if it is finished or already being worked on."""
        # Records arrive in order of offset, so everything up to this one has been seen or does not exist.
        known = offset < self._position or offset in self._done or offset in self._pending
        self._position = max(self._position, offset + 1)
        if not known:
            self._pending.add(offset)
        return not known

    def adopt(self, offset: int) -> bool:
        """Keep work begun under an earlier ownership of the partition; False if somebody else finished it."""
        if offset < self._position or offset in self._done:
            return False
        self._pending.add(offset)
        return True

    def commit_of(self, finishing: Collection[int]) -> Commit:
        """The commit that finishes these pending offsets; nothing changes until `apply`."""
        left = self._pending - set(finishing)
        low = self._low_of(left)
        done = frozenset(offset for offset in self._done.union(finishing) if offset >= low)
        crashes = self.crashes.published(low, advanced=low > self.committed_low, under_way=bool(left))
        return Commit(low, done, crashes)

    def commit_of_beginning(self, owner: int) -> Commit:
        """The commit that notes that work is under way, before any begins. `owner`: the token of who does it."""
        commit = self.commit_of(())
        return Commit(commit.low, commit.done, commit.crashes.noted(owner))

    def commit_of_end(self) -> Commit:
        """The commit that takes this note back, at an orderly end."""
        commit = self.commit_of(())
        return Commit(commit.low, commit.done, commit.crashes.ended())

    def largest_commit(self, finishing: Iterable[int], max_metadata_chars: int) -> tuple[list[int], Commit]:
        """As many of `finishing`, lowest first, as the commit's metadata has room for.

        The rest is held back, never dropped from the metadata: a result whose offset is not marked would come again.
        The lowest pending offset always fits, for finishing it only shortens the metadata.
        """
        chosen = sorted(finishing)
        commit = self.commit_of(chosen)
        while chosen and len(commit.metadata) > max_metadata_chars:
            chosen = chosen[: len(chosen) // 2]
            commit = self.commit_of(chosen)
        return chosen, commit

    def apply(self, commit: Commit) -> None:
        """The transaction with this commit has ended well."""
        self._pending = {offset for offset in self._pending if offset >= commit.low and offset not in commit.done}
        self._done = set(commit.done)
        self.crashes = commit.crashes
        self.committed_low = commit.low

    def _low_of(self, pending: Collection[int]) -> int:
        return min([self._position, *pending])
