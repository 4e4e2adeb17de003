"""Who calls, as far as a door must know."""

from __future__ import annotations

import msgspec

from guideway.producers.gateway.status import DoorCode, DoorRefusal


class Caller(msgspec.Struct, frozen=True):
    """Whoever has shown a key or a token."""

    namespace: str
    """As which it calls."""
    who: str
    """For logs: `key ID` or `subject NAME`."""


def unauthenticated(why: str = "") -> DoorRefusal:
    """The refusal for whoever is nobody. It does not tell whether a key exists."""
    return DoorRefusal(
        DoorCode.UNAUTHENTICATED,
        why or "this key or token does not count here: ask whoever runs the gateway for one (`guideway keys create`)",
    )
