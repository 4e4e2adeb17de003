"""Gateways are killed while requests run: `python -m tests.producers.gateway.kills [--requests N] [--kills N]`.

Two gateways run as processes. Each request has an idempotency key and is sent to one of them, again and again until one
answers that it is accepted; then its reply is asked for, at whichever lives. At the end each accepted request must have
its own reply. What was published twice, because a gateway was killed between an event and the note of it, is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import typer
from tests.producers.gateway.http.serving import ground

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker
from guideway.schemas.names.topics import call_topic

PATIENCE_S = 300.0


class Outcome(msgspec.Struct):
    """What came of a run."""

    requests: int = 0
    kills: int = 0
    wrong: list[str] = []
    """Requests that were accepted and have no reply, or another's."""
    tries: int = 0
    """Requests over HTTP that had to be repeated."""
    published_twice: int = 0


class Process:
    """A gateway at a port of its own, started anew whenever it was killed."""

    def __init__(self, cluster: Cluster, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": str(cluster), "GUIDEWAY_LOG_FORMAT": "json"}
        self._log = log
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "guideway", "gateway", "--port", str(self.port), "--no-restart"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environ, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def ready(self, client: httpx.AsyncClient) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"http://127.0.0.1:{self.port}/health/ready")).status_code == 200:
                        return
                assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
                await asyncio.sleep(0.1)


@contextlib.contextmanager
def processes(cluster: Cluster, count: int) -> Iterator[list[Process]]:
    with tempfile.TemporaryDirectory() as folder:
        running = [Process(cluster, Path(folder) / f"{number}.log") for number in range(count)]
        try:
            yield running
        finally:
            for one in running:
                one.kill()


async def run(cluster: Cluster, namespace: str, *, requests: int, kills: int) -> Outcome:
    """Send so many requests, and kill a gateway so many times while they run."""
    outcome = Outcome(requests=requests)
    async with ground(cluster, namespace) as (services, keys), httpx.AsyncClient(timeout=60, trust_env=False) as client:
        with processes(cluster, 2) as gateways:
            for one in gateways:
                await one.ready(client)
            authorization = {"authorization": f"Bearer {keys[namespace]}", "content-type": "text/plain"}
            at_a_time = asyncio.Semaphore(16)
            done = 0

            async def insist(method: str, path: str, **more: object) -> httpx.Response:
                ends_at = time.monotonic() + PATIENCE_S
                while True:
                    port = random.choice(gateways).port
                    try:
                        got = await client.request(method, f"http://127.0.0.1:{port}{path}", **more)  # type: ignore[arg-type]
                        if got.status_code not in (429, 503):
                            return got
                    except httpx.HTTPError:
                        pass
                    assert time.monotonic() < ends_at, f"{method} {path} was never answered"
                    outcome.tries += 1
                    await asyncio.sleep(0.1)

            async def send(number: int) -> None:
                nonlocal done
                async with at_a_time:
                    text = f"request {number}"
                    headers = authorization | {"idempotency-key": f"k-{number}", "prefer": "respond-async"}
                    got = await insist("POST", "/shop/mood", content=text, headers=headers)
                    ends_at = time.monotonic() + PATIENCE_S
                    while got.status_code == 202 and time.monotonic() < ends_at:
                        headers = authorization | {"prefer": "wait=10"}
                        got = await insist("GET", got.headers["location"], headers=headers)
                    if got.status_code != 200 or got.json()["samples"][0]["text"] != text:
                        outcome.wrong.append(f"{number}: {got.status_code} {got.text[:200]}")
                    done += 1

            async def killing() -> None:
                for number in range(kills):
                    while done < requests * (number + 1) // (kills + 2):
                        await asyncio.sleep(0.01)
                    victim = gateways[number % 2]
                    await asyncio.to_thread(victim.kill)
                    victim.start()
                    outcome.kills += 1
                    await victim.ready(client)

            await asyncio.gather(killing(), *[send(number) for number in range(requests)])
        outcome.published_twice = sum(times - 1 for times in services.times.values())
        assert {record.topic for record in services.seen} == {call_topic(namespace)}
    return outcome


def main(requests: int = 1000, kills: int = 8) -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = local_broker.up(Path(folder))
        try:
            outcome = asyncio.run(run(broker.cluster, "shop", requests=requests, kills=kills))
        finally:
            local_broker.down(Path(folder), wipe=True)
    print(msgspec.json.encode(outcome).decode())
    sys.exit(1 if outcome.wrong else 0)


if __name__ == "__main__":
    typer.run(main)
