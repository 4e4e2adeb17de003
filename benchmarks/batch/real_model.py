"""The rows that `benchmarks.batch.jobs` gives to the real model: by `guideway batch run`, and to the engine in process.

`python -m benchmarks.batch.real_model ROWS [apart]` prints the rate in process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.queue_fed import CACHE, ENGINE_CORE, OTHER_CORE, SOURCE, _give_a_core_of_its_own, middle_rate
from tests.faults.batch.ground import Kept

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker, topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names.addresses import BATCH_REPLIES
from guideway.schemas.names.topics import reply_topic
from guideway.schemas.output import Text
from guideway.schemas.request import Part, ReplyAddress, Request

NAMESPACE: Final = "bench"
ROWS_OF_THE_ENGINE: Final = 16
IN_HAND: Final = 256
"""Requests that a worker has of the batch lane at a time; the engine in process has as many."""
DATA: Final = Path(__file__).resolve().parents[2] / "examples" / "data"
FILES: Final = {"mood": ("uci_sentiment.train.jsonl", 6), "kind": ("wordnet_topics.train.jsonl", 12)}
"""Endpoint → (file with its texts, tokens of an answer)."""


def rows(count: int) -> list[tuple[str, str]]:
    """(endpoint, text) of each row, as they stand in the file."""
    chance = random.Random(0)
    texts = {
        name: [json.loads(line)["text"] for line in (DATA / file).read_text("utf-8").split("\n") if line]
        for name, (file, _) in FILES.items()
    }
    return [(name, chance.choice(texts[name])) for name in chance.choices(list(FILES), k=count)]


def manifests() -> list[Manifest]:
    """The model and the endpoints."""
    model = Model(name="small", namespace="public", source=SOURCE, partitions=4)
    return [model, *(_endpoint(name, tokens) for name, (_, tokens) in FILES.items())]


def _endpoint(name: str, tokens: int) -> Endpoint:
    generation = Generation(max_tokens=tokens)
    return Endpoint(namespace=NAMESPACE, name=name, model_size="small", output=Text(), generation=generation)


# In process ----------------------------------------------------------------------------------------------------------


async def in_process(count: int, *, apart: bool) -> float:
    """Rows per second of the engine alone, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.batch.real_model", str(count), *(["apart"] if apart else [])]
    return float(json.loads(await asyncio.to_thread(subprocess.check_output, command, stderr=subprocess.DEVNULL)))


def _run_here(count: int, *, apart: bool) -> float:
    import torch

    from guideway.workers.engine.engine import Engine
    from guideway.workers.engine.model import base_model
    from guideway.workers.messages.from_engine import Finished
    from guideway.workers.messages.to_engine import Admit, EngineSettings

    if apart:
        os.sched_setaffinity(0, {ENGINE_CORE})
        torch.set_num_threads(1)
    else:
        # As the worker that is compared: without the one thread that tests set.
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    base = base_model.load(base_model.prepare(SOURCE, CACHE, lambda _: None), dtype=torch.bfloat16, device="cpu")
    engine = Engine(base, EngineSettings(max_rows=ROWS_OF_THE_ENGINE), max_context_tokens=2048)
    left = enumerate(rows(count))
    finished: list[tuple[float, int]] = []
    in_hand = 0
    while len(finished) < count:
        while in_hand < IN_HAND and (one := next(left, None)) is not None:
            engine.add(Admit(id=str(one[0]), request=_request(one[0], *one[1]), artefacts=[], lane="batch"))
            in_hand += 1
        ended = [told for told in engine.step(time.time()) if isinstance(told, Finished)]
        in_hand -= len(ended)
        finished += [(time.time(), 1)] * len(ended)
    return middle_rate(finished)


def _request(number: int, endpoint: str, text: str) -> Request:
    return Request(
        id=str(number),
        namespace=NAMESPACE,
        endpoint=endpoint,
        endpoint_version=1,
        parts=[Part(kind="input", source="caller", text=text)],
        guidance=[],
        output=Text(),
        words=[],
        generation=Generation(max_tokens=FILES[endpoint][1]),
        reply_to=[ReplyAddress(topic=reply_topic(NAMESPACE, endpoint))],
        deadline_ms=None,
    )


# By `guideway batch run` ---------------------------------------------------------------------------------------------


async def through_batch(folder: Path, count: int, *, apart: bool) -> float:
    """Rows per second of a job, from when its replies came. apart: the engine has a core, all else another."""
    before = os.sched_getaffinity(0)
    if apart:
        os.sched_setaffinity(0, {OTHER_CORE})  # what is started here inherits it
    (folder / "models").symlink_to(CACHE)
    broker = await asyncio.to_thread(local_broker.up, folder / "broker")
    try:
        return await _through(broker.cluster, folder, count, apart=apart)
    finally:
        await asyncio.to_thread(lambda: local_broker.down(folder / "broker", wipe=True))
        os.sched_setaffinity(0, before)


async def _through(cluster: Cluster, folder: Path, count: int, *, apart: bool) -> float:
    await make_topics(cluster, [*topics.wanted(manifests()), *topics.batches(NAMESPACE)])
    async with CatalogueFollower(cluster) as reader:
        await publish(cluster, plan_changes(reader.catalogue, manifests()))
    file, out = folder / "rows.jsonl", folder / "out.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number, (name, text) in enumerate(rows(count)):
            lines.write(json.dumps({"id": str(number), "endpoint": f"/{NAMESPACE}/{name}", "text": text}) + "\n")
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": cluster.brokers, "GUIDEWAY_HOME": str(folder)}
    environ |= {"GUIDEWAY_STORE": str(folder / "store")}
    if not apart:
        environ.pop("OMP_NUM_THREADS", None)

    def guideway(name: str, *arguments: str) -> Kept:
        command = [sys.executable, "-m", "guideway", name, *arguments]
        return Kept(name, command, environ, folder / f"{name}.log")

    threads = ["--threads", "1"] if apart else []
    worker = guideway("worker", "--rows", str(ROWS_OF_THE_ENGINE), "--no-restart", *threads)
    async with guideway("endpoints", "--no-restart"), guideway("batcher", "--no-restart"), worker:
        if apart:
            await asyncio.sleep(1)
            await asyncio.to_thread(_give_a_core_of_its_own, worker.pid)
        run = [sys.executable, "-m", "guideway", "batch", "run", str(file), "-o", str(out), "--namespace", NAMESPACE]
        with (folder / "client.log").open("wb") as log:
            client = await asyncio.create_subprocess_exec(*run, env=environ, stdout=log, stderr=log)
            async with asyncio.timeout(1800):
                code = await client.wait()
        assert code == 0, (folder / "client.log").read_text(errors="replace")[-2000:]
        lines_out = sum(1 for _ in out.open("rb"))
        assert lines_out == count, f"{lines_out} of {count} rows have results"
        return middle_rate(await _replies(cluster))


async def _replies(cluster: Cluster) -> list[tuple[float, int]]:
    """When each reply was written, in seconds."""
    consumer: Any = make_consumer(cluster, "bench", auto_offset_reset="earliest")
    consumer.subscribe([reply_topic(NAMESPACE, BATCH_REPLIES)])
    found: list[tuple[float, int]] = []
    async with started(consumer, cluster):
        while batches := await consumer.getmany(timeout_ms=3_000):
            found += [(record.timestamp / 1000, 1) for records in batches.values() for record in records]
    return found


if __name__ == "__main__":
    print(json.dumps(_run_here(int(sys.argv[1]), apart="apart" in sys.argv)))
