"""Ctrl-C: at the first a command ends its work; what has not ended after some seconds, or at the second, is ended.

A thread keeps the time: Python's own handler waits until the main thread is back from whatever runs in C, which a step
of a large model or the end of another thread may hold up for minutes. All that guideway writes is replaced whole, so
that it may be ended at any moment.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 3.0
"""From the first Ctrl-C until it is ended, which takes a busy machine two seconds more."""
EXIT_INTERRUPTED: Final = 130
_SILENCE_S: Final = 0.5
"""What ends sooner needs no word that it is about to."""


class _State:
    """Of this process. Its owner is the thread that `watch` starts; others read it, but for `is_heard`."""

    presses = 0
    is_heard = False
    """The main thread has met with it, which may be before the other has counted it."""
    kept = ""
    said = False
    at_end: list[Callable[[], object]]
    wake = -1

    def __init__(self) -> None:
        self.at_end = []


_state = _State()


def watch() -> None:
    """From now on Ctrl-C ends this process, at the latest `PATIENCE_S` after it. For the main thread."""
    read, _state.wake = os.pipe()
    os.set_blocking(_state.wake, False)
    signal.set_wakeup_fd(_state.wake, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="watch for Ctrl-C", daemon=True).start()


def unwatch() -> None:
    """The caller sees to it itself, as who waits for another process does."""
    signal.set_wakeup_fd(-1)


def pressed() -> None:
    """For a handler of SIGINT that has taken the place of Python's: it was called."""
    if _state.wake >= 0:
        os.write(_state.wake, bytes([signal.SIGINT]))


def asked() -> bool:
    """Whether somebody has pressed Ctrl-C: work that takes long looks here, and ends."""
    return _state.is_heard or _state.presses > 0


def heard() -> None:
    """For whoever has caught a KeyboardInterrupt."""
    _state.is_heard = True


def keeps(what: str) -> None:
    """Say at an interruption what is kept, and how to go on."""
    _state.kept = what


def at_the_end(do: Callable[[], object]) -> None:
    """Also done where this process is ended in the middle of something: it must take no time."""
    _state.at_end.append(do)


def say_what_is_kept() -> None:
    """The last words of an interrupted command; once."""
    if not _state.said:
        _state.said = True
        # Without rich: the main thread may be in the middle of printing.
        clear = "\r\033[K\033[?25h" if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{clear}interrupted{': ' if _state.kept else ''}{_state.kept}\n".encode())


def _watch(read: int) -> None:
    ends_at = says_at = float("inf")
    while True:
        now = time.monotonic()
        if now >= ends_at:
            _end_now()
        if now >= says_at and not _state.said:
            with contextlib.suppress(OSError):
                os.write(2, b"\nending; Ctrl-C once more ends it at once\n")
        if now >= says_at:
            says_at = float("inf")
        wait_s = min(ends_at, says_at) - now
        ready, _, _ = select.select([read], [], [], None if wait_s == float("inf") else wait_s)
        signals = os.read(read, 64) if ready else b""
        for _ in range(signals.count(signal.SIGINT)):
            _state.presses += 1
            if _state.presses > 1:
                _end_now()
            ends_at, says_at = time.monotonic() + PATIENCE_S, time.monotonic() + _SILENCE_S


def _end_now() -> None:
    for do in _state.at_end:
        with contextlib.suppress(Exception):
            do()
    say_what_is_kept()
    os._exit(EXIT_INTERRUPTED)
