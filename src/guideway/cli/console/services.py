"""What the commands that run until they are told to stop have in common: restarts, and signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

import typer

from guideway.cli.console import interrupts
from guideway.usecases.supervise import supervise

HURRY_S: Final = 1.5
"""For what is running at Ctrl-C; to publish it and to leave the group takes time as well."""
Restart = Annotated[bool, typer.Option("--restart/--no-restart", help="Start again when killed or crashed.")]


def supervised(arguments: Sequence[str]) -> int:
    """Keep `guideway ARGUMENTS` running; returns its last exit code."""
    # Of two that keep the time at Ctrl-C, the child's is the one that counts.
    interrupts.unwatch()
    return supervise([sys.executable, "-m", "guideway", *arguments], hurry_s=interrupts.PATIENCE_S)


async def until_signalled(work: Callable[[], Awaitable[None]], stop: Callable[[float | None], None]) -> None:
    """Do the work; SIGTERM and Ctrl-C ask it to stop, the latter with the seconds that it may take for that.

    What is not finished then is left to the next process; raises KeyboardInterrupt at the end.
    """
    loop = asyncio.get_running_loop()

    def hurry() -> None:
        interrupts.pressed()
        stop(HURRY_S)

    loop.add_signal_handler(signal.SIGTERM, stop, None)
    loop.add_signal_handler(signal.SIGINT, hurry)
    await work()
    if interrupts.asked():
        raise KeyboardInterrupt
