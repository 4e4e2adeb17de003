"""A trainer on real brokers, with a stand-in for what it runs: each job ends once, as what it was."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import Refusal
from guideway.schemas.names.service_topics import training_cancel_topic, training_topic
from guideway.schemas.output import Choice
from guideway.training.jobs import job_topics
from guideway.training.jobs.messages import (
    JOB,
    JOB_CANCELLED,
    Job,
    JobCancelled,
    JobEnded,
    JobEvent,
    JobNews,
)
from guideway.training.jobs.service import JobService, TrainerSettings
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data

STAND_IN = (sys.executable, "-S", str(Path(__file__).with_name("fake_job_process.py")))
TASK = Task(
    namespace="shop", endpoint="mood", model_sizes=["small"], data=Data(train="/rows"), output=Choice(["a", "b"])
)

Submit = Callable[..., Awaitable[Job]]


@pytest.fixture
async def submit(broker: RunningBroker, unique_name: str) -> Submit:
    """Submits a job that behaves as its description says."""
    await make_topics(broker.cluster, topics.training("shop"))

    async def submit(behaviour: str, *, publish: bool = False) -> Job:
        task = msgspec.structs.replace(TASK, description=behaviour)
        job = Job(id=f"{unique_name}-{behaviour.replace(' ', '-')}", task=task, publish=publish)
        await job_topics.submit(broker.cluster, job)
        return job

    return submit


@contextlib.asynccontextmanager
async def trainer(broker: RunningBroker, jobs: Path) -> AsyncIterator[JobService]:
    service = JobService(TrainerSettings(cluster=broker.cluster, jobs=jobs, command=STAND_IN))
    running = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.stop()
        await asyncio.wait_for(running, 30)


async def end_of(broker: RunningBroker, job: Job) -> tuple[list[JobEvent], JobEnded]:
    """All that was told of the job, each once."""
    async with asyncio.timeout(60):
        news: list[JobNews] = [one async for one in job_topics.watch(broker.cluster, "shop", job.id)]
    *events, ended = news
    assert isinstance(ended, JobEnded)
    return [event for event in events if isinstance(event, JobEvent)], ended


async def until_told(broker: RunningBroker, job: Job, number: int) -> None:
    async with asyncio.timeout(60):
        async for one in job_topics.watch(broker.cluster, "shop", job.id):
            if isinstance(one, JobEvent) and one.number >= number:
                return


async def test_each_job_ends_as_what_it_was(broker: RunningBroker, submit: Submit, tmp_path: Path) -> None:
    async with trainer(broker, tmp_path):
        brief, bad = await submit("brief", publish=True), await submit("bad")
        survivor, hopeless = await submit("crash 2"), await submit("crash 9")
        events, ended = await end_of(broker, brief)
        assert [event.number for event in events] == [1, 2, 3]
        assert (ended.outcome, ended.published) == ("done", False)
        assert (ended.code, ended.message) == ("not_better", "it is not better")
        assert Path(ended.run) == tmp_path / "shop" / brief.id / "run"
        _, ended = await end_of(broker, bad)
        assert (ended.outcome, ended.code, ended.message) == ("failed", "invalid_data", "row 3: correct it")
        _, ended = await end_of(broker, survivor)
        assert ended.outcome == "done"
        _, ended = await end_of(broker, hopeless)
        assert (ended.outcome, ended.code) == ("failed", "internal_error")
        assert "exit code -9" in ended.message


async def test_a_cancelled_job_ends_or_never_begins(broker: RunningBroker, submit: Submit, tmp_path: Path) -> None:
    never = await submit("brief")
    await job_topics.cancel(broker.cluster, "shop", never.id)
    async with trainer(broker, tmp_path):
        events, ended = await end_of(broker, never)
        assert (events, ended.outcome) == ([], "cancelled")
        endless = await submit("endless")
        await until_told(broker, endless, 3)
        await job_topics.cancel(broker.cluster, "shop", endless.id)
        events, ended = await end_of(broker, endless)
        assert ended.outcome == "cancelled"
        assert len(events) >= 3
        with pytest.raises(Refusal, match="has ended already: it is cancelled"):
            await job_topics.cancel(broker.cluster, "shop", endless.id)
        with pytest.raises(Refusal, match="there is no job 'nothing'"):
            await job_topics.cancel(broker.cluster, "shop", "nothing")


async def test_a_job_that_is_cancelled_again_while_it_ends_holds_no_other_cancellation_up(tmp_path: Path) -> None:
    """What follows them would raise, and read both again and again, for as long as the job takes to end."""
    service = JobService(TrainerSettings(cluster=Cluster("127.0.0.1:1"), jobs=tmp_path, command=STAND_IN))
    wish = JOB_CANCELLED.encode(JobCancelled(job="a"))
    records = [SimpleNamespace(topic=training_cancel_topic("shop"), value=wish)]

    async def work() -> None:
        async with service._unless_cancelled(Job(id="a", task=TASK)):
            service._note(records)
            try:
                await asyncio.Event().wait()
            finally:
                service._note(records)

    with pytest.raises(Refusal, match="somebody has cancelled the job"):
        await work()


async def test_a_trainer_that_stops_leaves_its_job_to_the_next(
    broker: RunningBroker, submit: Submit, tmp_path: Path
) -> None:
    async with trainer(broker, tmp_path):
        endless = await submit("endless")
        await until_told(broker, endless, 3)
    async with trainer(broker, tmp_path):
        before = len((tmp_path / "shop" / endless.id / "run" / "events.jsonl").read_text().splitlines())
        await until_told(broker, endless, before + 3)
        await job_topics.cancel(broker.cluster, "shop", endless.id)
        events, ended = await end_of(broker, endless)
    assert ended.outcome == "cancelled"
    assert [event.number for event in events] == [*range(1, len(events) + 1)]


async def test_a_namespace_starts_and_cancels_its_own_jobs_only(
    broker: RunningBroker, submit: Submit, tmp_path: Path
) -> None:
    """A rival's topic names a job of the shop: it neither runs there, nor ends the one that does."""
    await make_topics(broker.cluster, topics.training("rival"))
    async with trainer(broker, tmp_path):
        endless = await submit("endless")
        await until_told(broker, endless, 2)
        await job_topics._send(
            broker.cluster,
            training_cancel_topic("rival"),
            endless.id,
            JOB_CANCELLED.encode(JobCancelled(job=endless.id)),
        )
        forged = msgspec.structs.replace(endless, id=f"{endless.id}-forged")
        await job_topics._send(broker.cluster, training_topic("rival"), forged.id, JOB.encode(forged))
        told = (await anext(iter_events(broker, endless, after=4))).number
        assert told > 4, "it goes on"
        await job_topics.cancel(broker.cluster, "shop", endless.id)
        await end_of(broker, endless)
        async with asyncio.timeout(60):
            [ended] = [one async for one in job_topics.watch(broker.cluster, "rival", forged.id)]
    assert isinstance(ended, JobEnded)
    assert (ended.outcome, ended.code, ended.run) == ("failed", "not_allowed", "")


async def iter_events(broker: RunningBroker, job: Job, *, after: int) -> AsyncIterator[JobEvent]:
    async with asyncio.timeout(60):
        async for one in job_topics.watch(broker.cluster, "shop", job.id):
            if isinstance(one, JobEvent) and one.number > after:
                yield one
