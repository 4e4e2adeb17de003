"""How long one tenant waits while another attacks: a real service, a real worker, the real model.

    python -m benchmarks.fairness                     # every attack, about eight minutes on two cores
    python -m benchmarks.fairness --only backlog gone

All processes are started again for each attack. The namespace `calm` sends a request every half second. Each is timed
from its event to its reply, first alone, then during the attack of the namespace `loud`. A request without an answer
after 30 s counts as 30 s. It uses Apache Kafka if KAFKA_HOME is set, else noida-db.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from benchmarks.figures import Figure, markdown, quantile, save

from guideway.catalogue.changes import Deletion
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.catalogue.entries import Identity
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker
from guideway.producers.client.client import Client
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Guidance, Model
from guideway.schemas.names import header
from guideway.schemas.names.topics import event_topic
from guideway.schemas.output import Boolean, Text
from guideway.schemas.reply import Completed
from guideway.settings import Settings
from guideway.usecases.apply import apply_manifests

RESULTS: Final = Path(__file__).parent / "results" / "fairness.json"
DEMO: Final = Path(__file__).resolve().parents[1] / "examples" / "demo" / "manifests"
MODELS: Final = Path(".guideway/models").resolve()
REQUESTS, EVERY_S, SETTLES_S, PATIENCE_S = 20, 0.5, 3.0, 30.0
QUESTION: Final = "Is the Earth round?"


@dataclass(frozen=True)
class Attack:
    """The events that `loud` sends at once to one of its own endpoints."""

    endpoint: str
    texts: Callable[[], Iterator[str]]
    headers: tuple[tuple[str, bytes], ...] = ()


ATTACKS: Final = {
    "backlog": Attack("ask", lambda: (f"{QUESTION} {number}" for number in range(5_000))),
    "batch-lane": Attack("later", lambda: (f"{QUESTION} {number}" for number in range(5_000))),
    "long-answers": Attack("write", lambda: (f"Tell me all about the number {number}." for number in range(100))),
    "guidance-5000-times": Attack(
        "guided",
        lambda: iter([QUESTION] * 20),
        headers=((header.GUIDANCE, ",".join(["loud/review-lora"] * 5_000).encode()),),
    ),
    "base64": Attack("ask", lambda: (base64.b64encode(os.urandom(525_000)).decode() for _ in range(10))),
    "gone": Attack("gone", lambda: (f"{QUESTION} {number}" for number in range(5_000))),
}


def manifests() -> list[Source]:
    """The demo's model, one of its LoRAs, the endpoint of `calm` and the endpoints of `loud`."""
    demo = read_manifests(DEMO)
    model = next(one for one in demo if isinstance(one.manifest, Model))
    lora = next(one for one in demo if isinstance(one.manifest, Guidance) and one.manifest.name == "review-lora")
    size = model.manifest.name

    def endpoint(namespace: str, name: str, **fields: object) -> Source:
        plain = Endpoint(namespace=namespace, name=name, model_size=size, output=Boolean(), max_text_chars=1_000_000)
        return Source(lora.path, msgspec.structs.replace(plain, **fields))

    return [
        model,
        Source(lora.path, msgspec.structs.replace(lora.manifest, namespace="loud")),
        endpoint("calm", "ask"),
        endpoint("loud", "ask"),
        endpoint("loud", "later", lane="batch"),
        endpoint("loud", "write", output=Text(), generation=Generation(max_tokens=900, temperature=1.0)),
        endpoint("loud", "guided", request_guidance=["loud/review-lora"]),
        endpoint("loud", "gone"),
    ]


async def attack(cluster: Cluster, one: Attack) -> None:
    """Send all events; returns when the brokers have all of them."""
    if one.endpoint == "gone":
        await publish(cluster, [Deletion(Identity("endpoint", "loud", "gone"), 1, kept=True)])
    topic = event_topic("loud", one.endpoint)
    async with started(make_producer(cluster, "bench", linger_ms=5), cluster) as producer:
        sent = [await producer.send(topic, text.encode(), headers=list(one.headers)) for text in one.texts()]
        await asyncio.gather(*sent)


async def waits(client: Client) -> list[float]:
    """Seconds from event to reply. Each request is sent on time, even if earlier ones have no reply yet."""

    async def wait() -> float:
        began = time.perf_counter()
        try:
            reply = await client.submit("/calm/ask", QUESTION, timeout_s=PATIENCE_S)
        except TimeoutError:
            return PATIENCE_S
        assert isinstance(reply, Completed), reply
        return time.perf_counter() - began

    asked = []
    for _ in range(REQUESTS):
        asked.append(asyncio.create_task(wait()))
        await asyncio.sleep(EVERY_S)
    return list(await asyncio.gather(*asked))


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Cluster]:
    """A context with a broker, the service and a worker in their own folder; all of them end with it."""
    broker = await asyncio.to_thread(local_broker.up, folder / "broker")
    processes = []
    try:
        await apply_manifests(Settings(home=folder, store=str(folder / "store"), named=broker.cluster), manifests())
        environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers, "GUIDEWAY_HOME": str(folder)}
        with (folder / "log").open("ab") as log:
            for command in ("endpoints", "worker"):
                arguments = [sys.executable, "-m", "guideway", command, "--no-restart"]
                processes.append(subprocess.Popen(arguments, env=environ, stdout=log, stderr=log))  # noqa: ASYNC220
        yield broker.cluster
    finally:
        for process in processes:
            await asyncio.to_thread(_end, process)
        await asyncio.to_thread(local_broker.down, folder / "broker", wipe=True)


@contextlib.asynccontextmanager
async def serving_processes(
    folder: Path, apply: Sequence[str], commands: Sequence[Sequence[str]]
) -> AsyncIterator[str]:
    """A context with a broker in `folder`, what `apply` puts into its catalogue, and these processes; its address."""
    broker = await asyncio.to_thread(local_broker.up, folder / "broker")
    processes = []
    brokers = broker.cluster.brokers
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": brokers, "GUIDEWAY_HOME": str(folder)}
    try:
        with (folder / "log").open("ab") as log:
            await asyncio.to_thread(subprocess.run, apply, env=environ, stdout=log, stderr=log, check=True)
            for command in commands:
                processes.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log))  # noqa: ASYNC220
        yield brokers
    except BaseException:
        print((folder / "log").read_text("utf-8")[-4000:], file=sys.stderr)
        raise
    finally:
        for process in processes:
            await asyncio.to_thread(_end, process)
        await asyncio.to_thread(local_broker.down, folder / "broker", wipe=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process: ask it, and kill it if it has not ended after 3 s. A worker's engine ends with it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        # If it were not killed, it would first finish the requests that the attack has left.
        process.kill()
        process.wait()


async def beside(name: str, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds that `calm` waits, alone and during the attack."""
    (folder / "models").symlink_to(MODELS)
    async with serving(folder) as cluster, Client(cluster) as client:
        await client.submit("/calm/ask", QUESTION, timeout_s=180)
        alone = await waits(client)
        await attack(cluster, ATTACKS[name])
        await asyncio.sleep(SETTLES_S)
        return alone, await waits(client)


async def measure(chosen: list[str]) -> list[Figure]:
    figures = []
    print("| attack | alone p50 | p95 | beside p50 | p95 | p95 against alone |\n|---|---|---|---|---|---|")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            alone, attacked = await beside(name, Path(folder))
        seconds = [quantile(values, share) for values in (alone, attacked) for share in (0.5, 0.95)]
        ratio = seconds[3] / seconds[1]
        print(f"| {name} | {' | '.join(f'{one:.2f} s' for one in seconds)} | {ratio:.2f} |", flush=True)
        figures.append(Figure(f"p95 beside {name}, against alone", ratio, "ratio"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    MODELS.mkdir(parents=True, exist_ok=True)
    figures = asyncio.run(measure(parser.parse_args().only))
    print(markdown(figures))
    save(figures, RESULTS)


if __name__ == "__main__":
    main()
