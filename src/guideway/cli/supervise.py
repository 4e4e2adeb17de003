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

from guideway.cli.console import interrupts

log = structlog.get_logger(__name__)

FINAL_CODES: Final = frozenset({0, 1, 2, 130})
"""Stopped, refused with a sentence, wrong usage, Ctrl-C: starting again would end the same way."""
_AT_ONCE_S: Final = 0.3
"""For a child that ends itself, as it was told."""
_PR_SET_PDEATHSIG: Final = 1


def supervise(arguments: Sequence[str], *, patience_s: float = 60) -> int:
    """Run `guideway ARGUMENTS` as a child for as long as it ought to run; returns its last exit code.

    SIGTERM is passed on, and the child has `patience_s` to finish its work. So is Ctrl-C, for which it has some seconds
    and at the second none; then the exit code is 130.
    """
    # Of two that keep the time the child's is the one that counts.
    interrupts.unwatch()
    stopping: list[tuple[float, int]] = []
    """When we were asked to stop, and how."""

    def pass_on(number: int, _frame: object) -> None:
        stopping.append((time.monotonic(), number))
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    def ends_at() -> float:
        """When the child is killed."""
        pressed = [at for at, number in stopping if number == signal.SIGINT]
        if len(pressed) > 1:
            return pressed[1] + _AT_ONCE_S
        if pressed:
            return pressed[0] + interrupts.PATIENCE_S + _AT_ONCE_S
        return stopping[0][0] + patience_s if stopping else float("inf")

    def code_of_stop() -> int:
        return interrupts.EXIT_INTERRUPTED if any(number == signal.SIGINT for _, number in stopping) else 0

    pause_s = 0.5
    child = _start(arguments)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while True:
        began = time.monotonic()
        code = _wait(child, ends_at)
        if stopping or code in FINAL_CODES:
            return code_of_stop() if stopping else code
        pause_s = 0.5 if time.monotonic() - began > 60 else min(10.0, pause_s * 2)
        log.warning("process ended; it is started again", exit_code=code, pause_s=pause_s)
        _pause(pause_s, stopping)
        if stopping:
            return code_of_stop()
        child = _start(arguments)
        if stopping:
            # The signal came while the new child was being made, and went to the old one.
            child.send_signal(stopping[-1][1])


def _pause(seconds: float, stopping: Sequence[object]) -> None:
    until = time.monotonic() + seconds
    while not stopping and time.monotonic() < until:
        # A handler does not end a sleep.
        time.sleep(0.1)


def end_with_parent() -> None:
    """Have this process asked to stop when its parent is gone, however that came about (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    # In a group of its own, so that Ctrl-C reaches it once, through us.
    return subprocess.Popen([sys.executable, "-m", "guideway", *arguments], process_group=0)


def _wait(child: subprocess.Popen[bytes], ends_at: Callable[[], float]) -> int:
    while True:
        try:
            return child.wait(0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > ends_at():
                child.kill()
                return child.wait()
