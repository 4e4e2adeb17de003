"""Waits until a broker that was just started answers, or says why it does not."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from aiokafka.protocol.metadata import MetadataResponse_v1

from guideway.infra.processes import HOST, Process, end
from guideway.schemas.failures import FailureCode, Refusal

Progress = Callable[[str], None]
"""Called with one short line for each step that takes time."""

_METADATA_V1_NO_TOPICS = struct.pack(">hhi h8s i", 3, 1, 7, 8, b"guideway", 0)


@dataclass(frozen=True)
class Started:
    """A broker's process and the address at which it answers."""

    process: Process
    bootstrap: str


def broker_ids_at(port: int, timeout_s: float = 1.0) -> frozenset[int]:
    """The ids of the brokers that the one on 127.0.0.1 lists; none until it answers and knows itself."""
    with contextlib.suppress(OSError, struct.error, ValueError):
        with socket.create_connection((HOST, port), timeout_s) as link:
            link.sendall(struct.pack(">i", len(_METADATA_V1_NO_TOPICS)) + _METADATA_V1_NO_TOPICS)
            (length,) = struct.unpack(">i", link.recv(4, socket.MSG_WAITALL))
            answer = link.recv(length, socket.MSG_WAITALL)
        # The correlation id comes first.
        return frozenset(broker[0] for broker in MetadataResponse_v1.decode(answer[4:]).brokers)
    return frozenset()


def brokers_at(port: int, timeout_s: float = 1.0) -> int:
    """How many brokers the one on 127.0.0.1 lists; 0 until it answers and knows itself."""
    return len(broker_ids_at(port, timeout_s))


def await_answer(
    process: Process, port: int, *, log: Path, what: str, timeout_s: float, listing: Collection[int] = ()
) -> None:
    """Return when the broker serves clients and lists a broker, or all brokers in `listing`.

    Otherwise end it after `timeout_s` seconds and raise Refusal(BROKER_UNREACHABLE).
    """
    deadline = time.monotonic() + timeout_s
    try:
        while not (listed := broker_ids_at(port)) or not listed.issuperset(listing):
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
