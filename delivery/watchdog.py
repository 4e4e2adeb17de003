"""Ends a process that makes no progress, so that it is started again and others take over its partitions.

Nothing is lost by that: a process may be killed at any moment.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

EXIT_STALLED: Final = 75
_LOOK_S: Final = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Signs:
    """When (`time.monotonic`) a pipeline last showed each sign of life."""

    polled_at: float
    """Its loop came round."""
    heartbeat_at: float
    """The group knew it as a member."""
    fetched_at: float
    """A broker answered a fetch, or there was nothing to fetch."""
    owing_since: Mapping[str, float]
    """Partitions that wait to open or to publish, and since when."""
    moved_at: float = float("-inf")
    """Some partition opened or published."""


def stalled(signs: Signs, now: float, patience_s: float, awake_since: float = float("-inf")) -> str | None:
    """What made no progress for longer than `patience_s`, or None. Time before `awake_since` does not count."""

    def is_late(at: float) -> bool:
        return now - max(at, awake_since) > patience_s

    if is_late(signs.polled_at):
        return "the event loop is blocked, or the group gives no assignment"
    if is_late(signs.heartbeat_at):
        return "the group coordinator answers no heartbeat"
    if is_late(signs.fetched_at):
        return "no broker answers a fetch"
    # While others of this process move, it is that partition's affair: to end the process would stop them as well.
    late = [name for name, since in signs.owing_since.items() if is_late(since)]
    return f"partition {late[0]} neither opens nor publishes" if late and is_late(signs.moved_at) else None


class Watchdog:
    """Looks once a second, from a thread: an event loop that is blocked cannot look at itself."""

    def __init__(self, signs: Callable[[], Signs], patience_s: float, end: Callable[[str], None] | None = None) -> None:
        """`end` is told why; by default it ends the process with EXIT_STALLED."""
        self._signs = signs
        self._patience_s = patience_s
        self._end = end or end_process
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        awake_since = looked_at = time.monotonic()
        while not self._stopping.wait(_LOOK_S):
            now = time.monotonic()
            if now - looked_at > 5 * _LOOK_S:
                # Not even this thread ran: the process, or the machine, was suspended.
                awake_since = now
            looked_at = now
            try:
                signs = self._signs()
            except Exception as error:
                # One look that fails must not end all later ones.
                log.error("the watchdog cannot look; it looks again", error=repr(error))
                continue
            if why := stalled(signs, now, self._patience_s, awake_since):
                self._end(why)
                return


def end_process(why: str) -> None:
    """Print the stacks of all threads and end, without cleaning up: what hangs would hang that too."""
    log.critical("no progress; the process ends to be started again", why=why)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(EXIT_STALLED)
