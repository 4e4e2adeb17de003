"""Live calls beside a declared shadow of all of them: `python -m benchmarks.events.beside_a_shadow`.

A broker, `guideway endpoints`, a worker whose engine answers each text after 50 ms, and `guideway shadows`, all on this
machine; in turns without and with a shadow of share 1. Prints, for each turn, the calls' times, and the processor time
of each process and its children for each call, until the shadow has all rows as well.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from tests.faults.fake_engine import FINGERPRINT
from tests.faults.worker_process import Config
from tests.kafka.conftest import ROOT, System

from guideway.infra import local_broker
from guideway.producers.client.client import Client
from guideway.schemas.kinds.shadow import Shadow, ShadowChanges
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.output import Text
from guideway.settings import Settings
from guideway.usecases.apply import apply_made
from guideway.usecases.shadows.view import shadow_of

MOOD: Final = Endpoint(namespace="shop", name="mood", model_size="fake", output=Text())
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """Of a process and all that it has started, those that have ended included."""
    found: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15])) / _TICKS
    wanted, total = {pid}, 0.0
    for _ in range(5):
        wanted |= {one for one, (parent, _) in found.items() if parent in wanted}
    for one in wanted:
        total += found.get(one, (0, 0.0))[1]
    return total


async def call(caller: Client, number: int, times_ms: list[float]) -> None:
    began = time.perf_counter()
    await caller.submit(MOOD.address, f"n={number} ms=50", timeout_s=60)
    times_ms.append((time.perf_counter() - began) * 1000)


async def turn(system: System, pids: Mapping[str, int], calls: int, per_s: float, *, is_shadowed: bool) -> None:
    """One turn, printed."""
    rule = Shadow(with_=ShadowChanges(instruction=f"Else {time.time()}."), share=1, rows=20_000)
    mood = msgspec.structs.replace(MOOD, shadow=rule if is_shadowed else None)
    await apply_made(system.settings, {"shop"}, lambda _there: [mood])

    async def rows() -> int:
        view = await shadow_of(system.settings, MOOD.address, with_figures=False)
        return view.rows if view.stage == "running" else 0

    async with Client(system.cluster) as caller:
        warming: list[float] = []
        while is_shadowed and not await rows():
            await call(caller, 0, warming)
        for number in range(20):
            await call(caller, -number, warming)
        await asyncio.sleep(8)
        had = await rows() if is_shadowed else 0
        times_ms: list[float] = []
        before, began = {name: processor_s(pid) for name, pid in pids.items()}, time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(calls):
                await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
                group.create_task(call(caller, number, times_ms))
        answered_s = time.monotonic() - began
        # The rows come in another process.
        while is_shadowed and await rows() < had + calls and time.monotonic() - began < 120:  # noqa: ASYNC110
            await asyncio.sleep(1)
        used = {name: (processor_s(pid) - before[name]) * 1000 / calls for name, pid in pids.items()}
        got = (await rows()) - had if is_shadowed else 0
    times_ms.sort()
    told = ", ".join(f"{name} {ms:.1f}" for name, ms in used.items())
    print(
        f"{'with   ' if is_shadowed else 'without'}: p50 {times_ms[calls // 2]:.0f} ms, "
        f"p95 {times_ms[int(calls * 0.95)]:.0f} ms, calls {answered_s:.0f} s, rows {got} in "
        f"{time.monotonic() - began:.0f} s; processor ms for each call: {told}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def start(system: System, name: str, command: Sequence[str], home: Path) -> None:
    environ = {**system.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "EXECUTED_LOG": str(home / "executed")}
    with (home / f"{name}.log").open("ab") as log:
        system.processes[name] = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, env=environ)


async def measure(system: System, broker_pid: int, turns: int, calls: int, per_s: float) -> None:
    model = Model(name="fake", namespace="public", source="fake", fingerprint=FINGERPRINT, partitions=1)
    await apply_made(system.settings, {"public"}, lambda _there: [model])
    await apply_made(system.settings, {"shop"}, lambda _there: [MOOD])
    config = Config(
        brokers=system.cluster.brokers, size="fake", folder=str(system.home), lanes=("interactive", "batch")
    )
    (system.home / "worker.json").write_bytes(msgspec.json.encode(config))
    start(system, "endpoints", ["guideway", "endpoints"], system.home)
    start(system, "worker", ["tests.faults.worker_process", str(system.home / "worker.json")], system.home)
    start(system, "shadows", ["guideway", "shadows", "--namespace", "shop"], system.home)
    pids = {"broker": broker_pid} | {name: process.pid for name, process in system.processes.items()}
    print(f"{system.kind}, {calls} calls in each turn, {per_s:g} a second, {os.cpu_count()} cores")
    for number in range(2 * turns):
        await turn(system, pids, calls, per_s, is_shadowed=bool(number % 2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=3, help="of each kind")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        broker = local_broker.up(home / "broker")
        settings = Settings(home=home, store=str(home / "store"), named=broker.cluster)
        system = System(broker.cluster, broker.kind, settings)
        assert broker.pid is not None, "it was started here"
        try:
            asyncio.run(measure(system, broker.pid, given.turns, given.calls, given.per_second))
        finally:
            system.stop()
            local_broker.down(broker.folder, wipe=True)


if __name__ == "__main__":
    main()
