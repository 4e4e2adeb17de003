"""How a run is asked to end."""

from __future__ import annotations

from collections.abc import Callable


class Interrupted(Exception):
    """The run was asked to end. If it was training, its checkpoint is written."""


ShouldEnd = Callable[[], bool]
"""Whether the run is asked to end. It is called every few seconds or more often."""


def never() -> bool:
    """False: the run is never asked to end."""
    return False
