"""What a gateway adds to a call, and what a waiting connection costs it.

    python -m benchmarks.doors.gateway --turns 5 --seconds 20

One process answers events on a general address at once, in place of the services, so that what is left is the way: by
the client library, and by HTTP through `guideway gateway`, in turns, at a fixed rate. Then 2,000 connections wait for
replies that do not come, and the gateway's memory is read. It uses Apache Kafka if KAFKA_HOME is set, else noida-db.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx
from benchmarks.figures import Figure, markdown, quantile, save
from tests.producers.gateway.http.serving import ground
from tests.producers.gateway.kills import processes

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker
from guideway.producers.client.client import Client

RESULTS: Final = Path(__file__).parents[1] / "results" / "gateway.json"
NAMESPACE: Final = "bench"
ADDRESS: Final = "/bench/mood"
RATE: Final = 100
CONNECTIONS: Final = 2000
Send = Callable[[str], Awaitable[None]]


async def latencies(send: Send, seconds: float) -> list[float]:
    """Of each call, in milliseconds; begun at a fixed rate, whether or not those before have ended."""
    found: list[float] = []

    async def one(number: int) -> None:
        began = time.perf_counter()
        await send(f"text {number}")
        found.append((time.perf_counter() - began) * 1000)

    began, running = time.perf_counter(), []
    for number in range(int(RATE * seconds)):
        await asyncio.sleep(began + number / RATE - time.perf_counter())
        running.append(asyncio.create_task(one(number)))
    await asyncio.gather(*running)
    return found


async def measured(cluster: Cluster, key: str, turns: int, seconds: float, connections: int) -> list[Figure]:
    with processes(cluster, 1) as (gateway,):
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
        async with (
            Client(cluster) as client,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{gateway.port}",
                headers={"authorization": f"Bearer {key}", "content-type": "text/plain"},
                limits=limits,
                timeout=120,
                trust_env=False,
            ) as http,
        ):
            await gateway.ready(http)

            async def by_client(text: str) -> None:
                reply = await client.submit(ADDRESS, text, via=NAMESPACE)
                assert reply.value == text

            async def by_http(text: str) -> None:
                got = await http.post(ADDRESS, content=text)
                assert got.json()["samples"][0]["value"] == text

            added, plain, through, processor = [], [], [], []
            for turn in range(-1, turns):
                lasts = seconds if turn >= 0 else 2
                a, before = await latencies(by_client, lasts), processor_ms(gateway.pid)
                b = await latencies(by_http, lasts)
                print(f"{turn}: client {quantile(a, 0.5):.1f} ms, HTTP {quantile(b, 0.5):.1f} ms", file=sys.stderr)
                if turn >= 0:
                    added.append(quantile(b, 0.5) - quantile(a, 0.5))
                    plain.append(quantile(a, 0.5))
                    through.append(quantile(b, 0.5))
                    processor.append((processor_ms(gateway.pid) - before) / len(b))
            idle = resident_mib(gateway.pid)
            waiting = [asyncio.create_task(http.post(ADDRESS, content=f"hold {n}")) for n in range(connections)]
            for _ in range(300):
                if open_connections(gateway.port) >= connections:
                    break
                await asyncio.sleep(0.2)
            # Each has published its event and waits.
            await asyncio.sleep(10)
            full = resident_mib(gateway.pid)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
    return [
        Figure("p50 by the client library", statistics.median(plain), "ms"),
        Figure("p50 by HTTP", statistics.median(through), "ms"),
        Figure("p50 added by a gateway at 100 requests/s", statistics.median(added), "ms"),
        Figure("processor time of a gateway for a request", statistics.median(processor), "ms"),
        Figure("memory of a gateway at rest", idle, "MiB"),
        Figure("memory of a gateway with 2,000 waiting connections", full, "MiB"),
    ]


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_ms(pid: int) -> float:
    """What a process has computed so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1000 / os.sysconf("SC_CLK_TCK")


def open_connections(port: int) -> int:
    """Established connections to a port of this machine."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if (part := line.split())[1] == wanted and part[3] == "01")


async def answer_for_ever(cluster: Cluster) -> None:
    """Answers, and tells the key of the namespace."""
    async with ground(cluster, NAMESPACE) as (_, keys):
        print(keys[NAMESPACE], flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        asyncio.run(answer_for_ever(Cluster.of(given.answer)))
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        broker = local_broker.up(Path(folder))
        command = [sys.executable, "-m", "benchmarks.doors.gateway", "--answer", str(broker.cluster)]
        answering = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert answering.stdout is not None
            key = answering.stdout.readline().strip()
            figures = asyncio.run(measured(broker.cluster, key, given.turns, given.seconds, given.connections))
        finally:
            answering.kill()
            answering.wait()
            local_broker.down(Path(folder), wipe=True)
    print(markdown(figures))
    if given.connections == CONNECTIONS and given.turns >= 3:
        save(figures, RESULTS)


if __name__ == "__main__":
    main()
