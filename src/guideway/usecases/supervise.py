"""A process that keeps another one running: killed or crashed, it is started again; refused or stopped, it is not."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

log = structlog.get_logger(__name__)

EXIT_INTERRUPTED: Final = 130
"""As a shell tells of a program that Ctrl-C has ended."""
FINAL_CODES: Final = frozenset({0, 1, 2, EXIT_INTERRUPTED})
"""Stopped, refused with a sentence, wrong usage, Ctrl-C: starting again would end the same way."""
EXIT_UNAVAILABLE: Final = 69
"""Of a service that the cluster does not let work as it is now (`EX_UNAVAILABLE`): it is started again."""
_LONGEST_PAUSE_S: Final = {EXIT_UNAVAILABLE: 30.0}
"""By exit code, where it is not ten seconds: each try logs in, and says why it could not."""
_AT_ONCE_S: Final = 0.3
"""After the second Ctrl-C, for a child that ends itself, as it was told."""
_LATE_S: Final = 2.0
"""After the first one: a child ends itself in time and says what is kept, and a busy machine lets it do so later."""
_PR_SET_PDEATHSIG: Final = 1


class Stopping:
    """The signals that a supervisor was sent: until when its child may live, and how it ends itself. Pure."""

    def __init__(self, *, patience_s: float, hurry_s: float) -> None:
        """patience_s: what the child has after SIGTERM. hurry_s: after Ctrl-C; after a second one it has no time."""
        self._patience_s = patience_s
        self._hurry_s = hurry_s
        self._signals: list[tuple[float, int]] = []

    def add(self, number: int, now: float) -> None:
        """This signal has come."""
        self._signals.append((now, number))

    @property
    def is_asked(self) -> bool:
        return bool(self._signals)

    @property
    def latest(self) -> int:
        """The signal that came last."""
        return self._signals[-1][1]

    @property
    def ends_at(self) -> float:
        """When the child is killed."""
        pressed = [at for at, number in self._signals if number == signal.SIGINT]
        if len(pressed) > 1:
            return pressed[1] + _AT_ONCE_S
        if pressed:
            return pressed[0] + self._hurry_s + _LATE_S
        return self._signals[0][0] + self._patience_s if self._signals else float("inf")

    @property
    def exit_code(self) -> int:
        """Of the supervisor."""
        return EXIT_INTERRUPTED if any(number == signal.SIGINT for _, number in self._signals) else 0


def supervise(command: Sequence[str], *, hurry_s: float, patience_s: float = 60) -> int:
    """Run the command as a child for as long as it ought to run; returns its last exit code.

    SIGTERM is passed on, and the child has `patience_s` to finish its work. So is Ctrl-C, for which it has `hurry_s`
    and at the second no time; then the exit code is 130. For the main thread: it sets the handlers of both signals.
    """
    stopping = Stopping(patience_s=patience_s, hurry_s=hurry_s)

    def pass_on(number: int, _frame: object) -> None:
        stopping.add(number, time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    pause_s = 0.5
    child = _start(command)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while True:
        began = time.monotonic()
        code = _wait(child, lambda: stopping.ends_at)
        if stopping.is_asked or code in FINAL_CODES:
            return stopping.exit_code if stopping.is_asked else code
        pause_s = 0.5 if time.monotonic() - began > 60 else min(_LONGEST_PAUSE_S.get(code, 10.0), pause_s * 2)
        log.warning("process ended; it is started again", exit_code=code, pause_s=pause_s)
        _pause(pause_s, stopping)
        if stopping.is_asked:
            return stopping.exit_code
        child = _start(command)
        if stopping.is_asked:
            # The signal came while the new child was being made, and went to the old one.
            child.send_signal(stopping.latest)


def _pause(seconds: float, stopping: Stopping) -> None:
    until = time.monotonic() + seconds
    while not stopping.is_asked and time.monotonic() < until:
        # A handler does not end a sleep.
        time.sleep(0.1)


def end_with_parent() -> None:
    """Have this process asked to stop when its parent is gone, however that came about (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # In a group of its own, so that Ctrl-C reaches it once, through us.
    return subprocess.Popen(command, process_group=0)


def _wait(child: subprocess.Popen[bytes], ends_at: Callable[[], float]) -> int:
    while True:
        try:
            return child.wait(0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > ends_at():
                log.warning("process did not end in time, and was killed")
                child.kill()
                return child.wait()
