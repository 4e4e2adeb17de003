"""Processes that outlive this one: each has its own session, and is identified by its pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Process:
    """A process that was started here. `born` distinguishes it from a later process with the same pid."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.born != "" and birth(self.pid) == self.born


def birth(pid: int) -> str | None:
    """When the process started, in the system's words; None if it has ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _birth_by_ps(pid)
    except ProcessLookupError:
        return None
    # The second field is the command in brackets. It may hold spaces and brackets itself.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" and not _has_threads(pid) else fields[19]


def _has_threads(pid: int) -> bool:
    """Whether other threads run after the first has ended: the process ends with the last of them."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except FileNotFoundError:
        return False


def _birth_by_ps(pid: int) -> str | None:
    """As `birth`, on systems without /proc (macOS)."""
    run = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, born = run.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else born.strip()


def spawn(command: Sequence[str], *, log: Path, environ: Mapping[str, str]) -> Process:
    """Start `command` in a new session, so that it outlives this process and its terminal. `log` gets its output."""
    with open(log, "ab") as output, open(os.devnull, "rb") as nothing:
        pid = os.posix_spawn(
            command[0],
            list(command),
            dict(environ),
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
        )
    return Process(pid, birth(pid) or "")


def end(process: Process, *, patience_s: float = 30) -> bool:
    """End the process by SIGTERM, and by SIGKILL after `patience_s` seconds. Returns whether it ran."""
    there = process.alive
    _signal_and_wait(process, signal.SIGTERM, patience_s)
    kill(process)
    return there


def kill(process: Process) -> None:
    """End the process at once, by SIGKILL."""
    _signal_and_wait(process, signal.SIGKILL, 10.0)
    # If this process started it, this process must reap it.
    with contextlib.suppress(ChildProcessError):
        while not process.alive and os.waitpid(process.pid, os.WNOHANG) == (0, 0):
            time.sleep(0.02)


def _signal_and_wait(process: Process, signum: int, wait_s: float) -> None:
    if not process.alive:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signum)
        # A stopped process receives only SIGKILL until it continues.
        os.kill(process.pid, signal.SIGCONT)
    deadline = time.monotonic() + wait_s
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as one:
        # As servers do: lingering connections of an earlier server do not count.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return False
        return True
