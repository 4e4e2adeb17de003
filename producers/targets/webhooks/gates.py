"""How many attempts a webhook may have at a time, and which wait for their turn. Pure but for the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

AT_A_TIME: Final = 8
"""Attempts of one webhook, in one process."""
PATIENCE_S: Final = 5.0
"""Whoever would wait for longer is put off: a slow receiver is to hold up nobody else's deliveries."""
_USUAL_S: Final = 0.5
"""For an attempt, where none was seen yet."""
_WEIGHT: Final = 0.3
"""Of the last attempt, in what an attempt usually takes."""


class _Gate:
    def __init__(self) -> None:
        self.free = asyncio.Semaphore(AT_A_TIME)
        self.inside = 0
        """Those that have their turn or wait for it."""
        self.usual_s = _USUAL_S
        self.closed_until = float("-inf")


class Gates:
    """One gate for each webhook that has anything in hand. Owner of all of them."""

    def __init__(self) -> None:
        self._gates: dict[tuple[str, str], _Gate] = {}

    def wait_s(self, webhook: tuple[str, str], now: float) -> float:
        """Seconds until a delivery that comes now would have its turn, about."""
        gate = self._gates.get(webhook)
        if gate is None:
            return 0.0
        ahead = max(0, gate.inside - AT_A_TIME + 1)
        return max(gate.closed_until - now, ahead * gate.usual_s / AT_A_TIME)

    def closed_s(self, webhook: tuple[str, str], now: float) -> float:
        """Seconds for which the receiver wants nothing."""
        gate = self._gates.get(webhook)
        return max(0.0, gate.closed_until - now) if gate is not None else 0.0

    def close(self, webhook: tuple[str, str], until: float) -> None:
        """The receiver wants nothing before then."""
        if (gate := self._gates.get(webhook)) is not None:
            gate.closed_until = max(gate.closed_until, until)

    def took(self, webhook: tuple[str, str], seconds: float) -> None:
        """An attempt took so long."""
        if (gate := self._gates.get(webhook)) is not None:
            gate.usual_s += _WEIGHT * (seconds - gate.usual_s)

    @contextmanager
    def entered(self, webhook: tuple[str, str], now: float) -> Iterator[asyncio.Semaphore]:
        """While this lasts, the delivery has its turn or waits for it; what is given is to be acquired."""
        self._forget_idle(now)
        gate = self._gates.setdefault(webhook, _Gate())
        gate.inside += 1
        try:
            yield gate.free
        finally:
            gate.inside -= 1

    def _forget_idle(self, now: float) -> None:
        if len(self._gates) > 1000:
            idle = [one for one, gate in self._gates.items() if not gate.inside and gate.closed_until <= now]
            for one in idle:
                del self._gates[one]
