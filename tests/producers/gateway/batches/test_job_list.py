"""How often the jobs of a namespace are read, and how old what is told may be."""

from __future__ import annotations

import asyncio
from typing import Any

from guideway.producers.batch.jobs import Job
from guideway.producers.gateway.batches.job_list import JobList
from guideway.schemas.services.batch import BatchJob


def job(id_: str) -> Job:
    made = BatchJob(id=id_, rows=1, pieces=1, index="0" * 64, secret="0" * 32, submitted_ms=1, deadline_ms=2)
    return Job(namespace="shop", job=made)


class Kafka:
    """Stands in for the topics."""

    def __init__(self) -> None:
        self.jobs: list[Job] = [job("a")]
        self.reads = 0

    async def list(self, _namespace: str) -> list[Job]:
        self.reads += 1
        there = [*self.jobs]
        await asyncio.sleep(0)
        return there


async def test_many_that_ask_at_once_are_one_reading() -> None:
    kafka: Any = Kafka()
    listed = JobList(kafka)
    assert [len(one) for one in await asyncio.gather(*(listed.of("shop") for _ in range(50)))] == [1] * 50
    assert await listed.job("shop", "a") == job("a")
    assert kafka.reads == 1


async def test_what_another_gateway_has_made_a_moment_ago_is_there() -> None:
    kafka: Any = Kafka()
    listed = JobList(kafka)
    await listed.of("shop")
    kafka.jobs.append(job("b"))
    assert await listed.job("shop", "b") == job("b")
    assert await listed.job("shop", "none") is None
    assert kafka.reads <= 3


async def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    kafka: Any = Kafka()
    listed = JobList(kafka)
    first = asyncio.create_task(listed.of("shop"))
    await asyncio.sleep(0)
    second = asyncio.create_task(listed.of("shop"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [job("a")]
