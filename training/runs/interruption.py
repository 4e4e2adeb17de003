"""That somebody wants a run to end."""

from __future__ import annotations

from collections.abc import Callable


class Interrupted(Exception):
    """The run was asked to end; where it was training, the checkpoint is written."""


ShouldEnd = Callable[[], bool]
"""Whether somebody asks for it. Asked every few seconds at least, and more often where a piece of work is short."""


def never() -> bool:
    """Nobody asks."""
    return False
