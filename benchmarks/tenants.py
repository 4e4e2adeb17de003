"""Whether one tenant's backlog delays others, and whether shares are as weights say: real services, real workers.

    python -m benchmarks.tenants                      # with the fake engine: 2, 10 and 100 tenants, then shares
    python -m benchmarks.tenants --real --only 2      # with the real model
    python -m benchmarks.tenants --only shares

`small-N` publish ten requests each, all at once, several times: first alone, then while `loud` has 5,000 waiting. The
time of each request is from its event to its reply. Everything is started anew for each run. The fake engine
(`stepped_engine.py`) has the engine's own scheduler and steps of 100 ms, which are waited and not computed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from benchmarks.fairness import MODELS, RESULTS, serving_processes
from benchmarks.figures import Figure, markdown, quantile, save

RUNS, BACKLOG, EACH, SETTLES_S, PATIENCE_S = 3, 5_000, 10, 5.0, 300.0
TENANTS: Final = (2, 10, 100)
WEIGHTS: Final = {"one": 1, "two": 2, "four": 4}
SHARES_S: Final = 25.0
TEXT: Final = "Is the Earth round? Answer in a word or two."


def manifests(tenants: Sequence[str], *, partitions: int, weights: dict[str, float], real: bool) -> str:
    """The endpoint `ask` of each tenant, and where they differ the weights."""
    endpoints = [
        {
            "kind": "endpoint/v1",
            "namespace": name,
            "name": "ask",
            "model_size": "small",
            "output": {"type": "boolean"} if real else {"type": "text"},
            "generation": {"max_tokens": 8},
            "partitions": partitions,
        }
        for name in tenants
    ]
    limits = [
        {"kind": "namespace/v1", "namespace": "public", "name": name, "weight": weight}
        for name, weight in weights.items()
    ]
    return yaml.safe_dump_all([*endpoints, *limits])


@dataclass
class Callers:
    """Publishes events for all tenants and hears all their replies."""

    producer: Any
    consumer: Any
    waiting: dict[bytes, asyncio.Future[float]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    """By namespace, generated."""
    _number: int = 0

    async def hear(self) -> None:
        async for record in self.consumer:
            headers = dict(record.headers)
            reply = msgspec.json.decode(record.value)
            assert "samples" in reply, reply
            self.answered[reply["namespace"]] += 1
            self.tokens[reply["namespace"]] += reply["usage"]["output_tokens"] + reply["usage"]["prompt_tokens"]
            future = self.waiting.pop(headers.get("correlation_id", b""), None)
            if future is not None and not future.done():
                future.set_result(time.perf_counter())

    async def send(self, tenant: str, number: int) -> None:
        """So many events that nobody waits for; returns when the brokers have them."""
        topic = f"gw.{tenant}.ask.in.v1"
        await asyncio.gather(*[await self.producer.send(topic, f"{TEXT} {one}".encode()) for one in range(number)])

    async def ask(self, tenant: str) -> float:
        """Seconds from an event to its reply."""
        self._number += 1
        id_ = str(self._number).encode()
        future = self.waiting[id_] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        headers = [("correlation_id", id_)]
        await self.producer.send(f"gw.{tenant}.ask.in.v1", f"{TEXT} {self._number}".encode(), headers=headers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                return float(await future - began)
        return PATIENCE_S


@contextlib.asynccontextmanager
async def calling(brokers: str, tenants: Sequence[str]) -> AsyncIterator[Callers]:
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=2)
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, isolation_level="read_committed", fetch_max_wait_ms=10)
    await asyncio.gather(producer.start(), consumer.start())
    callers = Callers(producer, consumer)
    try:
        topics = [f"gw.{name}.ask.out.v1" for name in tenants]
        consumer._client.set_topics(topics)
        await consumer._client.force_metadata_update()
        consumer.assign([TopicPartition(one, n) for one in topics for n in consumer.partitions_for_topic(one)])
        await consumer.seek_to_end()
        hearing = asyncio.create_task(callers.hear())
        yield callers
        hearing.cancel()
    finally:
        await asyncio.gather(producer.stop(), consumer.stop())


async def rounds(callers: Callers, small: Sequence[str], count: int) -> list[float]:
    """Each small tenant's ten requests at once, again when all are answered."""
    found: list[float] = []
    for _ in range(count):
        found += await asyncio.gather(*[callers.ask(name) for name in small for _ in range(EACH)])
        await asyncio.sleep(0.5)
    return found


async def one_run(tenants: int, *, real: bool, settles_s: float = SETTLES_S) -> tuple[list[float], list[float]]:
    """Seconds of the small tenants' requests, alone and while `loud` has its backlog."""
    small = [f"small-{number}" for number in range(tenants - 1)]
    all_ = ["loud", *small]
    count = 6 if tenants < 10 else 2 if tenants < 100 else 1
    with tempfile.TemporaryDirectory() as folder:
        written = manifests(all_, partitions=1, weights={}, real=real)
        async with system(Path(folder), written, real=real) as brokers, calling(brokers, all_) as callers:
            await asyncio.gather(*[callers.ask(name) for name in small])
            alone = await rounds(callers, small, count)
            await callers.send("loud", BACKLOG)
            await asyncio.sleep(settles_s)
            before, began = callers.answered["loud"], time.perf_counter()
            beside = await rounds(callers, small, count)
            rate = (callers.answered["loud"] - before) / (time.perf_counter() - began)
            print(f"<!-- loud had {rate:.1f} answers a second meanwhile -->", file=sys.stderr, flush=True)
            left = BACKLOG - callers.answered["loud"]
            assert left > 0, "the backlog was gone before the measurement ended"
            return alone, beside


async def shares(*, real: bool) -> dict[str, float]:
    """Tenant → its part of all tokens, of two services and two workers, while all have a backlog."""
    with tempfile.TemporaryDirectory() as folder:
        written = manifests([*WEIGHTS], partitions=4, weights=dict(WEIGHTS), real=real)
        async with (
            system(Path(folder), written, real=real, services=2, workers=2) as brokers,
            calling(brokers, [*WEIGHTS]) as callers,
        ):
            await asyncio.gather(*[callers.ask(name) for name in WEIGHTS])
            for name in WEIGHTS:
                await callers.send(name, BACKLOG)
            # What came first had its turn alone.
            await asyncio.sleep(10)
            before = Counter(callers.tokens)
            await asyncio.sleep(SHARES_S)
            had = callers.tokens - before
            assert all(callers.answered[name] < BACKLOG for name in WEIGHTS), "a backlog was gone"
            return {name: had[name] / had.total() for name in WEIGHTS}


@contextlib.asynccontextmanager
async def system(folder: Path, written: str, *, real: bool, services: int = 1, workers: int = 1) -> AsyncIterator[str]:
    """A broker, services and workers in their own folder; its address."""
    (folder / "models").symlink_to(MODELS)
    (folder / "tenants.yaml").write_text(written)
    worker = [sys.executable, "-m", "guideway", "worker", "--no-restart"]
    worker = worker if real else [sys.executable, "-m", "benchmarks.tenants", "--as-worker"]
    commands = [[sys.executable, "-m", "guideway", "endpoints", "--no-restart"]] * services + [worker] * workers
    apply = [sys.executable, "-m", "guideway", "apply", "--with-small", "-f", str(folder / "tenants.yaml")]
    async with serving_processes(folder, apply, commands) as brokers:
        yield brokers


async def work() -> None:
    """A worker as the command line makes it, with the fake engine."""
    from guideway.settings import Settings
    from guideway.usecases import serve

    made = serve.worker(Settings.from_environ(), size="small")
    made._settings = msgspec.structs.replace(
        made._settings, engine_program=(sys.executable, "-m", "benchmarks.stepped_engine")
    )
    await made.run()


async def measure(chosen: list[str], *, real: bool, runs: int) -> list[Figure]:
    figures = []
    engine = "the real model" if real else "the fake engine"
    print(
        f"| tenants, {engine} | alone p50, p95 | beside 5,000 waiting p50, p95 | p95 against alone: median | all runs |"
    )
    print("|---|---|---|---|---|", flush=True)
    for tenants in [one for one in TENANTS if str(one) in chosen]:
        measured = [await one_run(tenants, real=real) for _ in range(runs)]
        ratios = [quantile(beside, 0.95) / quantile(alone, 0.95) for alone, beside in measured]
        seconds = [
            statistics.median(quantile(run[which], share) for run in measured)
            for which in (0, 1)
            for share in (0.5, 0.95)
        ]
        shown = [f"{seconds[0]:.2f}, {seconds[1]:.2f} s", f"{seconds[2]:.2f}, {seconds[3]:.2f} s"]
        each = ", ".join(f"{one:.2f}" for one in sorted(ratios))
        print(f"| {tenants} | {' | '.join(shown)} | {statistics.median(ratios):.2f} | {each} |", flush=True)
        kind = "real model" if real else "fake engine"
        figures.append(Figure(f"p95 of {tenants} tenants, {kind}, against alone", statistics.median(ratios), "ratio"))
    if "shares" in chosen:
        whole = sum(WEIGHTS.values())
        print("\n| part of the tokens by weight 1, 2, 4; of 1.00 each is as the weights say |\n|---|", flush=True)
        found = [await shares(real=real) for _ in range(runs)]
        for one in found:
            told = {name: one[name] / (weight / whole) for name, weight in WEIGHTS.items()}
            print(f"| {json.dumps({name: round(value, 2) for name, value in told.items()})} |", flush=True)
        worst = [max(abs(one[name] / (weight / whole) - 1) for name, weight in WEIGHTS.items()) for one in found]
        figures.append(Figure("share of tokens against weight, at the worst", statistics.median(worst), "ratio"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [*map(str, TENANTS), "shares"]
    parser.add_argument("--only", nargs="*", choices=choices, default=choices)
    parser.add_argument("--real", action="store_true", help="the real model in place of the fake engine")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--as-worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_worker:
        asyncio.run(work())
        return
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    MODELS.mkdir(parents=True, exist_ok=True)
    figures = asyncio.run(measure(arguments.only, real=arguments.real, runs=arguments.runs))
    print(markdown(figures))
    save(figures, RESULTS.with_name("tenants.json"))


if __name__ == "__main__":
    main()
