"""Which calls may become requests now. A call's lane is known only when it was read, so calls wait here, not outside.

An endpoint's topic is of one lane: where that lane is full, the topic is not read on. A general address is of all
lanes, and must be read on, for one full lane is not to hold up the calls to others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from guideway.delivery.intake import UNBOUNDED, Limit
from guideway.producers.intake.shares import Party

FORGET_S: Final = 30.0
"""A call that was let in and is not published after so long was lost with its partition: it does not count any more."""


class CallGate:
    """The calls that wait, and those let in and not yet published, by party. The intake owns it.

    The calls of a party are let in in their order. Times are seconds of one clock.
    """

    def __init__(self) -> None:
        self._limit: Limit = lambda party: UNBOUNDED
        self._waiting: dict[Party, deque[asyncio.Future[None]]] = {}
        self._begun: dict[Party, deque[float]] = {}
        """When each was let in."""

    @property
    def parties(self) -> Collection[Party]:
        """The parties that have calls here."""
        return self._waiting.keys() | self._begun.keys()

    def begun(self, party: Party) -> int:
        """How many calls of this party are let in and not yet published."""
        return len(self._begun.get(party, ()))

    def begun_of(self, namespace: str) -> int:
        """The same, of all parties of this namespace."""
        return sum(len(begun) for party, begun in self._begun.items() if party.namespace == namespace)

    def waiting_of(self, namespace: str) -> int:
        """How many calls of this namespace wait."""
        return sum(len(waiting) for party, waiting in self._waiting.items() if party.namespace == namespace)

    def round(self, limit: Limit, now: float) -> None:
        """Let in those that wait, by these limits: half of the room, for their party may have other events too."""
        self._limit = limit
        for party, begun in list(self._begun.items()):
            while begun and now - begun[0] >= FORGET_S:
                self.left(party)
        for party, waiting in list(self._waiting.items()):
            room = self._room(party)
            for _ in range(min(len(waiting), room - room // 2)):
                # Of a call that was cancelled a moment ago, the future is still here.
                if not (future := waiting.popleft()).done():
                    self._let_in(party, now)
                    future.set_result(None)
            if not waiting:
                del self._waiting[party]

    def lets_in(self, party: Party, now: float) -> bool:
        """Whether this call may become a request at once; it then counts as let in. None overtakes those that wait."""
        if party in self._waiting or self._room(party) <= 0:
            return False
        self._let_in(party, now)
        return True

    @contextmanager
    def waiting(self, party: Party) -> Iterator[asyncio.Future[None]]:
        """A future that is done when this call was let in."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(future)
        try:
            yield future
        except BaseException:
            if future.done() and not future.cancelled():
                # It becomes no request after all.
                self.left(party)
            raise
        finally:
            if not future.done() or future.cancelled():
                self._give_up(party, future)

    def left(self, party: Party) -> None:
        """A call that was let in is published, or will not become a request."""
        begun = self._begun.get(party)
        if begun:
            begun.popleft()
        if not begun:
            self._begun.pop(party, None)

    def _room(self, party: Party) -> int:
        return self._limit(party) - self.begun(party)

    def _let_in(self, party: Party, now: float) -> None:
        self._begun.setdefault(party, deque()).append(now)

    def _give_up(self, party: Party, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(party)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[party]
