"""Waiting until a broker that has just been started answers, or telling why it does not."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guideway.infra.processes import HOST, Process, end
from guideway.schemas.failures import FailureCode, Refusal

Progress = Callable[[str], None]
"""Told one short line for each step that takes time."""

_METADATA_V1_NO_TOPICS = struct.pack(">hhi h8s i", 3, 1, 7, 8, b"guideway", 0)


@dataclass(frozen=True)
class Started:
    """A broker's process and the address at which it answers."""

    process: Process
    bootstrap: str


def brokers_at(port: int, timeout_s: float = 1.0) -> int:
    """How many brokers the one on 127.0.0.1 lists; 0 while it does not answer or does not yet know itself."""
    with contextlib.suppress(OSError, struct.error), socket.create_connection((HOST, port), timeout_s) as link:
        link.sendall(struct.pack(">i", len(_METADATA_V1_NO_TOPICS)) + _METADATA_V1_NO_TOPICS)
        # Correlation id, then the number of brokers: all that is wanted of the answer.
        head = link.recv(12, socket.MSG_WAITALL)
        return max(0, int(struct.unpack(">iii", head)[2]))
    return 0


def await_answer(process: Process, port: int, *, log: Path, what: str, timeout_s: float) -> None:
    """Return once the broker serves clients; end it and raise Refusal(BROKER_UNREACHABLE) when it never does."""
    deadline = time.monotonic() + timeout_s
    try:
        while brokers_at(port) == 0:
            if not process.alive:
                raise _refusal(f"{what} ended while it was starting", log)
            if time.monotonic() > deadline:
                raise _refusal(f"{what} did not answer within {timeout_s:g} s", log)
            time.sleep(0.05)
    except BaseException:
        end(process, patience_s=2)
        raise


def _refusal(sentence: str, log: Path) -> Refusal:
    lines = log.read_text(errors="replace").strip().splitlines()[-8:]
    return Refusal(FailureCode.BROKER_UNREACHABLE, f"{sentence}; {log} ends with:\n" + "\n".join(lines))
