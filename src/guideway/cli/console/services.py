"""What the commands that run until they are told to stop have in common: restarts, and signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, Final

import typer

from guideway import logs
from guideway.catalogue.topic import NoCatalogue
from guideway.cli.console import interrupts
from guideway.cli.console.output import complain, run
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.supervise import EXIT_UNAVAILABLE, end_with_parent, supervise

HURRY_S: Final = 1.5
"""For what is running at Ctrl-C; to publish it and to leave the group takes time as well."""
Restart = Annotated[bool, typer.Option("--restart/--no-restart", help="Start again when killed or crashed.")]

_MAY_HEAL: Final = frozenset(
    {
        FailureCode.BROKER_UNREACHABLE,
        FailureCode.LOGIN_REFUSED,
        FailureCode.NOT_ALLOWED,
        FailureCode.UNKNOWN_MODEL_SIZE,
    }
)
"""What whoever runs the cluster may mend without a change of ours: brokers, passwords, rights, what is applied."""


def begin_service(*, restart: bool) -> Settings:
    """How every service begins: with logs, and the settings of its process.

    restart: this process only keeps the service running, in another that ends with it. Raises typer.Exit then.
    """
    logs.configure()
    if restart:
        raise typer.Exit(supervised([*sys.argv[1:], "--no-restart"]))
    end_with_parent()
    return Settings.from_environ()


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


def run_service(settings: Settings, work: Coroutine[Any, Any, None]) -> None:
    """Run a service. Where the cluster does not let it work, and may do so later, the exit code says that.

    Raises Refusal for all else, an address or a login that is not set or wrong in itself above all.
    """
    try:
        settings.cluster()
    except Refusal:
        work.close()
        raise
    try:
        run(work)
    except Refusal as refusal:
        if refusal.code not in _MAY_HEAL and not isinstance(refusal, NoCatalogue):
            raise
        complain(refusal)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
