"""Small batches that hold large records, on Apache Kafka: no consumer of ours takes more memory than is said here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import partial

import pytest
from aiokafka import AIOKafkaProducer

from guideway.delivery.connection.cluster import Cluster
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition

ALLOWED_MIB = 600
"""Beyond what the process has before it reads: 128 MiB held, 96 MiB open, one batch being taken out, and what comes of
records while they are sent."""
CODECS = ("gzip", "snappy", "lz4", "zstd")
BOMB, LARGE = bytes(62 * 10**6), bytes(10**6)


async def send(cluster: Cluster, topic: str, codec: str, values: list[bytes], each: int) -> None:
    """So many batches with all of these values."""
    producer = AIOKafkaProducer(
        bootstrap_servers=cluster.brokers,
        compression_type=codec,
        max_request_size=2**27,
        max_batch_size=2**27,
        request_timeout_ms=60_000,
    )
    async with producer:
        for number in range(each):
            batch = producer.create_batch()
            for value in values:
                assert batch.append(key=None, value=value, timestamp=None) is not None
            await (await producer.send_batch(batch, topic, partition=number % 3))


@pytest.fixture(scope="module")
def loaded(broker: RunningBroker) -> tuple[str, list[str], int, int]:
    """(cluster, topics, records of 62 MB, other records)."""
    if broker.kind != "apache-kafka":
        pytest.skip("noida-db keeps whatever it is sent; what is read of it is the same")
    names = [*(f"inflated.{codec}" for codec in CODECS), "inflated.others"]

    async def load() -> None:
        await make_topics(
            broker.cluster,
            [one for name in names for one in (TopicDefinition(name, 3), TopicDefinition(f"{name}.dlq"))],
        )
        await send(broker.cluster, names[-1], "gzip", [b"somebody else's"], 30)
        for name, codec in zip(names, CODECS, strict=False):
            await send(broker.cluster, name, codec, [BOMB], 6)
            await send(broker.cluster, name, codec, [LARGE] * 30, 3)
            await send(broker.cluster, name, codec, [b"a neighbour"], 9)

    asyncio.run(load())
    return broker.cluster.brokers, names, 24, 4 * (90 + 9) + 30


@pytest.mark.parametrize("kind", ["pipeline", "getmany", "iteration"])
async def test_memory_stays_below_its_bound_and_every_record_is_read(
    kind: str, loaded: tuple[str, list[str], int, int]
) -> None:
    cluster, names, bombs, others = loaded
    command = [
        sys.executable,
        "-m",
        "tests.delivery.guards.inflated_reader",
        cluster,
        kind,
        str(bombs + others),
        *names,
    ]
    run = partial(subprocess.run, command, capture_output=True, text=True, timeout=330, check=False)
    ended = await asyncio.to_thread(run)
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["withheld"], told["read"]) == (bombs, others)
    assert told["mebibytes"] < ALLOWED_MIB
    if kind == "pipeline":
        assert told["left_for_others"] > others / 2, "others are answered meanwhile"
