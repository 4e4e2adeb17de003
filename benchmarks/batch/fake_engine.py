"""A batch job from file to file with an engine that answers at once: its rate, what each part of the road takes of a
core for a row, and memory.

A first job warms the road: a broker compiles its own code in its first minute, and processes read theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from tests.faults.batch.ground import Client, Ground, Kept, write_rows
from tests.faults.kafka.cluster import KafkaCluster

_LOOK_S: Final = 0.2
_TELL_S: Final = 10.0
_WARM_S: Final = 3600.0
_ENGINE: Final = b"tests.faults.fake_engine"


def at_once(number: int) -> str:
    """The text of a row that the fake engine answers at once."""
    return f"n={number} ms=0 " + "word " * 12


@asynccontextmanager
async def ground(folder: Path, **config: object) -> AsyncIterator[Ground]:
    """A broker that runs as in production, with one process of each service."""
    kafka = await asyncio.to_thread(lambda: KafkaCluster.up(folder / "kafka", 1, quick=False))
    try:
        async with Ground(folder, kafka, workers=1, batchers=1, capacity=1024, **config) as made:
            yield made
    finally:
        await asyncio.to_thread(kafka.down)


async def fake(args: argparse.Namespace, folder: Path) -> list[Figure]:
    """The whole road with an engine that costs nothing."""
    file, out, warm = folder / "rows.jsonl", folder / "out.jsonl", folder / "warm.jsonl"
    write_rows(warm, args.warm_rows, at_once)
    write_rows(file, args.rows, at_once)
    async with ground(folder) as road:
        async with road.client(warm, folder / "warm-out.jsonl") as client:
            await client.done(_WARM_S)
        done = Begun(road.executed)
        done.count()
        began = time.monotonic()
        async with road.client(file, out) as client:
            processes = {"client": client, "batcher": road.batchers[0], "service": road.services[0]}
            watched = asyncio.create_task(_peaks(client, processes))
            telling = asyncio.create_task(_tell(done, args.rows))
            sessions = {name: one.pid for name, one in (processes | {"worker": road.workers[0]}).items()}
            before = used = _processor_s(sessions, road.kafka)
            while not client.has_ended:
                # A process that has just ended is not to be found any more.
                used = {name: max(used[name], one) for name, one in _processor_s(sessions, road.kafka).items()}
                await asyncio.sleep(_LOOK_S)
            peaks = await watched
            telling.cancel()
        took_s = time.monotonic() - began
    with out.open("rb") as written:
        lines = sum(1 for _ in written)
    assert lines == args.rows, f"{lines} of {args.rows} rows are answered"
    spent = {name: (used[name] - before[name]) / args.rows * 1e6 for name in used}
    together = sum(spent.values())
    print(f"{args.rows:,} rows in {took_s:.0f} s; peaks in MiB: {peaks}")
    shown = ", ".join(f"{name} {one:.0f}" for name, one in spent.items())
    print(f"microseconds of a core for a row: {shown}, together {together:.0f}", flush=True)
    return [
        Figure("batch, fake engine, file to file", args.rows / took_s, "rows/s"),
        Figure("batch, fake engine, file to file, if two cores were ours alone", 2e6 / together, "rows/s"),
        *(Figure(f"batch, core of {name} for a row", one, "µs") for name, one in spent.items()),
        *(Figure(f"batch, memory of the {name} with {args.rows:,} rows", mib, "MiB") for name, mib in peaks.items()),
        Figure("batch, largest memory of client, batcher and service", max(peaks.values()), "MiB"),
    ]


class Begun:
    """Rows that the engine has begun: its log has a line for each, and is read once."""

    def __init__(self, log: Path) -> None:
        self._log, self._at = log, 0

    def count(self) -> int:
        """How many since the last call."""
        if not self._log.exists():
            return 0
        with self._log.open("rb") as lines:
            lines.seek(self._at)
            found = lines.read()
        self._at += len(found)
        return found.count(b"\n")


async def _tell(begun: Begun, rows: int) -> None:
    """Say every few seconds how far the job is, until this is cancelled."""
    started, done = time.monotonic(), 0
    lately: deque[tuple[float, int]] = deque([(started, 0)], maxlen=7)
    while True:
        await asyncio.sleep(_TELL_S)
        done += begun.count()
        now = time.monotonic()
        rate = (done - lately[0][1]) / (now - lately[0][0])
        lately.append((now, done))
        left = f", {(rows - done) / rate:.0f} s more" if rate and done < rows else ""
        print(f"  {now - started:.0f} s: {done:,} of {rows:,} rows, {rate:.0f} rows/s{left}", flush=True)


def _processor_s(sessions: Mapping[str, int], kafka: KafkaCluster) -> dict[str, float]:
    """Seconds of a core that each session of processes has used, the fake engine apart, and the broker."""
    found = dict.fromkeys((*sessions, "fake engine", "broker"), 0.0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            whose = next((name for name, session in sessions.items() if int(fields[3]) == session), None)
            if whose is not None and _ENGINE in (stat.parent / "cmdline").read_bytes():
                whose = "fake engine"
        except (FileNotFoundError, ProcessLookupError):
            continue
        if pid == kafka.pid(1):
            whose = "broker"
        if whose is not None:
            found[whose] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


async def _peaks(client: Client, processes: dict[str, Kept]) -> dict[str, float]:
    """The largest resident size of each process, in MiB, until the client has ended."""
    found = dict.fromkeys(processes, 0.0)
    while not client.has_ended:
        for name, process in processes.items():
            found[name] = max(found[name], _peak_mib(process.pid))
        await asyncio.sleep(_LOOK_S)
    return {name: round(mib, 1) for name, mib in found.items()}


def _peak_mib(pid: int) -> float:
    """The largest resident size that a process has had; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    at = status.find("VmHWM:")
    return int(status[at:].split()[1]) / 1024 if at >= 0 else 0.0
