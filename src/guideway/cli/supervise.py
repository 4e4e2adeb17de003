"""A process that keeps another one running: killed or crashed, it is started again; refused or stopped, it is not."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import structlog

log = structlog.get_logger(__name__)

FINAL_CODES: Final = frozenset({0, 1, 2, 130})
"""Stopped, refused with a sentence, wrong usage, Ctrl-C: starting again would end the same way."""
_PR_SET_PDEATHSIG: Final = 1


def supervise(arguments: Sequence[str], *, patience_s: float = 60) -> int:
    """Run `guideway ARGUMENTS` as a child for as long as it ought to run; returns its last exit code.

    SIGTERM and SIGINT are passed on, and the child has `patience_s` to finish its work.
    """
    stopping: list[float] = []
    """When we were asked to stop."""

    def pass_on(_number: int, _frame: object) -> None:
        stopping.append(time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)

    pause_s = 0.5
    child = _start(arguments)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while True:
        began = time.monotonic()
        code = _wait(child, stopping, patience_s)
        if stopping or code in FINAL_CODES:
            return 0 if stopping else code
        pause_s = 0.5 if time.monotonic() - began > 60 else min(10.0, pause_s * 2)
        log.warning("process ended; it is started again", exit_code=code, pause_s=pause_s)
        time.sleep(pause_s)
        if stopping:
            return 0
        child = _start(arguments)
        if stopping:
            # The signal came while the new child was being made, and went to the old one.
            child.send_signal(signal.SIGTERM)


def end_with_parent() -> None:
    """Have this process asked to stop when its parent is gone, however that came about (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    # In a group of its own, so that Ctrl-C reaches it once, through us.
    return subprocess.Popen([sys.executable, "-m", "guideway", *arguments], process_group=0)


def _wait(child: subprocess.Popen[bytes], stopping: list[float], patience_s: float) -> int:
    while True:
        try:
            return child.wait(0.5)
        except subprocess.TimeoutExpired:
            if stopping and time.monotonic() - stopping[0] > patience_s:
                child.kill()
                return child.wait()
