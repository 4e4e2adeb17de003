"""How many rows of each endpoint may be under way, by how many of them are answered. Pure: takes `now`.

Rows under way wait in topics and in the lane of their model size, before other rows of their namespace. So an endpoint
whose workers are slow, or which has none, gets few of a job's rows under way, and the others of the file go on.
"""

from __future__ import annotations

from collections import deque
from typing import Final

RECENT_S: Final = 20.0
"""The rate of answers is measured over so long. An endpoint without an answer for so long is quiet."""
AHEAD: Final = 2
"""So many times what was answered in `RECENT_S` may be under way: enough where answers take up to twice as long."""
_STEP_S: Final = 0.5
"""Answers are counted by so much time."""
LEAST: Final = 8
"""Of any endpoint: else nobody would learn that it answers again. Of each of many quiet ones at least one."""
USUAL: Final = 250
"""Of an endpoint of which nothing else is known: about what the queue of one worker takes."""
_QUIET_PART: Final = 4
"""Rows of quiet endpoints are at most this part of all: calls that wait for a lane hold up those behind them."""


class _Flow:
    def __init__(self) -> None:
        self.waiting = 0
        self.answered: deque[tuple[float, int]] = deque()
        """(when, how many)"""
        self.recent = 0
        """How many were answered in the last `RECENT_S`."""
        self.blocked_since: float | None = None

    def note(self, now: float) -> None:
        self.recent += 1
        if self.answered and now - self.answered[-1][0] < _STEP_S:
            when, count = self.answered[-1]
            self.answered[-1] = when, count + 1
        else:
            self.answered.append((now, 1))

    def forget(self, now: float) -> None:
        while self.answered and now - self.answered[0][0] >= RECENT_S:
            self.recent -= self.answered.popleft()[1]


class Flows:
    """The rows of one job that are published and not answered, by endpoint. Endpoints are numbers."""

    def __init__(self) -> None:
        self._flows: dict[int, _Flow] = {}
        self.waiting = 0
        """Of all endpoints."""
        self._summed: tuple[float, int, int, int] | None = None
        """(when, rows that wait of quiet endpoints, endpoints with rows that wait, how many of them are quiet), until
        something changes."""

    def published(self, endpoint: int) -> None:
        """A row is about to be published, or is."""
        self._summed = None
        self._flow(endpoint).waiting += 1
        self.waiting += 1

    def answered(self, endpoint: int, now: float) -> None:
        """One of them is answered."""
        self._summed = None
        flow = self._flow(endpoint)
        flow.waiting -= 1
        self.waiting -= 1
        flow.note(now)

    def waiting_of(self, endpoint: int) -> int:
        """How many rows of this endpoint wait."""
        return self._flow(endpoint).waiting

    def quiet(self, now: float) -> int:
        """How many rows wait of endpoints that answer nothing."""
        return self._sums(now)[0]

    def _sums(self, now: float) -> tuple[int, int, int]:
        if self._summed is None or self._summed[0] != now:
            waiting = [flow for flow in self._flows.values() if flow.waiting]
            quiet = [flow.waiting for flow in waiting if self._is_quiet(flow, now)]
            self._summed = now, sum(quiet), len(waiting), len(quiet)
        return self._summed[1:]

    def allowed(self, endpoint: int, rows: int, now: float) -> int:
        """How many rows of this endpoint may wait. rows: of all together."""
        flow = self._flow(endpoint)
        quiet, busy, quiet_ones = self._sums(now)
        if self._is_quiet(flow, now):
            least = max(1, min(LEAST, rows // _QUIET_PART // max(1, quiet_ones)))
            return max(least, min(USUAL, (rows // _QUIET_PART - (quiet - flow.waiting)) // 2))
        usual = min(USUAL, rows // (2 * max(1, busy + (not flow.waiting))))
        return max(LEAST, usual, min(rows, AHEAD * flow.recent))

    def has_room(self, endpoint: int, rows: int, now: float, *, is_held: bool = False) -> bool:
        """Whether more rows of this endpoint may be published. How long there was none is remembered.

        is_held: it has no room whatever is under way.
        """
        flow = self._flow(endpoint)
        if not is_held and flow.waiting < self.allowed(endpoint, rows, now):
            flow.blocked_since = None
            return True
        if flow.blocked_since is None:
            flow.blocked_since = now
        return False

    def room(self, endpoint: int, rows: int, now: float) -> int:
        """How many more rows of it may be published."""
        return max(0, self.allowed(endpoint, rows, now) - self.waiting_of(endpoint))

    def is_on_trial(self, endpoint: int, rows: int, now: float) -> bool:
        """Whether it answers nothing, and others with many rows do not: it gets no more of a piece than its room."""
        flow = self._flow(endpoint)
        return self._is_quiet(flow, now) and self.quiet(now) - flow.waiting >= rows // (2 * _QUIET_PART)

    def is_hungry(self, endpoint: int, rows: int, now: float) -> bool:
        """Whether it could do with more rows soon."""
        return self.waiting_of(endpoint) <= self.allowed(endpoint, rows, now) // 2

    def is_quiet(self, endpoint: int, now: float) -> bool:
        """Whether it has answered nothing of late."""
        return self._is_quiet(self._flow(endpoint), now)

    def blocked_s(self, endpoint: int, now: float) -> float:
        """Since when there was no room for more of its rows, as far as that was asked."""
        since = self._flow(endpoint).blocked_since
        return 0.0 if since is None else now - since

    def _is_quiet(self, flow: _Flow, now: float) -> bool:
        flow.forget(now)
        return not flow.recent

    def _flow(self, endpoint: int) -> _Flow:
        return self._flows.setdefault(endpoint, _Flow())
