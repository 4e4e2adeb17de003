"""When a broker that did not let us connect is tried again. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

_FIRST_S: Final = 0.05
_MOST_S: Final = 1.0
"""As Java's `reconnect.backoff.max.ms`: a broker that comes back is soon found."""
_MOST_REFUSED_S: Final = 5.0
"""Where a login is refused, somebody has to change something first."""
_JITTER: Final = 0.2


class Failures(NamedTuple):
    """What happened to an address since it last let us connect."""

    number: int
    until: float
    """When it is tried again, in seconds of the caller's clock."""


def after(before: Failures | None, now: float, chance: float, *, is_refused: bool) -> Failures:
    """After one more failure. The pause doubles up to a second, or five where we are refused.

    chance: of [0, 1), so that clients that failed together do not come back together.
    """
    number = (before.number if before is not None else 0) + 1
    pause_s = min(_MOST_REFUSED_S if is_refused else _MOST_S, _FIRST_S * 2 ** min(number - 1, 10))
    return Failures(number, now + pause_s * (1 - _JITTER + 2 * _JITTER * chance))
