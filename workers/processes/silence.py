"""When a child process has said nothing for too long. Synchronous, told the time, no I/O."""

from __future__ import annotations

from typing import Final

_LOOK_S: Final = 5.0
_LOOKS_AT_ONCE: Final = 2
"""More time than this between two counts is not the child's silence: this process itself stood still."""


class Silence:
    """How long a process has said nothing while it owed an answer.

    Time in which nobody waits for it does not count: an idle process has nothing to say. Time in which this process did
    not run (suspended, collecting garbage) does not count either: what the child said meanwhile has not been read yet.

    Who waits may change. So a process that hangs is found also where each request gives up after a short time.
    """

    def __init__(self, *, busy_s: float, start_s: float) -> None:
        """busy_s: the most that it may be silent while somebody waits; start_s: while it is being started."""
        self._busy_s = busy_s
        self._start_s = start_s
        self._silent_s = 0.0
        self._counted_at = 0.0
        self.look_s = min(_LOOK_S, busy_s / 4)
        """How often to count, seconds."""

    @property
    def silent_s(self) -> float:
        return self._silent_s

    def heard(self, now: float) -> None:
        """It has been started at `now`, or has said something (seconds, of a clock that only goes forward)."""
        self._silent_s, self._counted_at = 0.0, now

    def count(self, now: float, *, owing: bool) -> None:
        """owing: whether it owed an answer since the last count. Call this at each look, and whenever that changes."""
        if owing:
            self._silent_s += min(now - self._counted_at, _LOOKS_AT_ONCE * self.look_s)
        self._counted_at = now

    def is_too_long(self, *, starting: bool) -> bool:
        return self._silent_s > (self._start_s if starting else self._busy_s)
