"""Batch jobs through deaths: of batchers, of what answers, of the broker. Each id has one answer all the same."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.producers.batch.stand_in import end_of, lines, rows

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker, topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.batch.jobs import Jobs, Wanted

ROWS = 4000
BATCHER, ANSWERS = ("-m", "guideway", "batcher", "--no-restart"), ("-m", "tests.producers.batch.stand_in")
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@asynccontextmanager
async def processes(cluster: Cluster, home: Path) -> AsyncIterator[Start]:
    """Starts processes that are killed at the end."""
    started: list[asyncio.subprocess.Process] = []
    environ = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": str(cluster),
        "GUIDEWAY_HOME": str(home),
        "GUIDEWAY_STORE": str(home / "store"),
    }

    async def start(*command: str) -> asyncio.subprocess.Process:
        with (home / f"{len(started)}.log").open("wb") as log:
            child = await asyncio.create_subprocess_exec(sys.executable, *command, env=environ, stdout=log, stderr=log)
        started.append(child)
        return child

    try:
        yield start
    finally:
        for child in started:
            if child.returncode is None:
                child.kill()
            await child.wait()


async def until(jobs: Jobs, ns: str, id_: str, answered: int) -> int:
    async with asyncio.timeout(40):
        async for one in jobs.watch(ns, id_):
            if one.counts.answered >= answered or one.ended is not None:
                return one.counts.answered
    raise AssertionError("watching ends with the job")


def each_once(jobs: Jobs, ns: str, job: object) -> None:
    output, errors = lines(jobs, ns, job)  # type: ignore[arg-type]
    assert not errors
    assert Counter(one["id"] for one in output) == Counter(f"r{n}" for n in range(1, ROWS + 1))
    assert all(one["value"] == f"TEXT {int(one['id'][1:]) - 1}" for one in output)


@pytest.mark.parametrize("broker_environ", ["apache-kafka"], indirect=True)
async def test_each_row_is_answered_once_whoever_is_killed(
    own_broker: RunningBroker, broker_environ: dict[str, str], tmp_path: Path
) -> None:
    """Of the brokers too, so on Apache Kafka: noida-db keeps records in memory."""
    cluster, ns, jobs = own_broker.cluster, "shop", Jobs(own_broker.cluster, str(tmp_path / "store"))
    await make_topics(cluster, topics.batches(ns))
    async with processes(cluster, tmp_path) as start:
        answering, first = await start(*ANSWERS, ns), await start(*BATCHER)
        job = await jobs.submit(ns, rows([f"text {n}" for n in range(ROWS)], ns), Wanted())
        seen = await until(jobs, ns, job.id, 1)
        first.kill()
        await start(*BATCHER)
        seen = await until(jobs, ns, job.id, seen + 500)
        answering.kill()
        await start(*ANSWERS, ns)
        await until(jobs, ns, job.id, seen + 500)
        assert own_broker.pid is not None
        os.kill(own_broker.pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, own_broker.pid, 0)
        await asyncio.to_thread(local_broker.up, own_broker.folder, environ=broker_environ)
        each_once(jobs, ns, await end_of(jobs, ns, job, within_s=120))
