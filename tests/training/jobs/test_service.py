"""A trainer on real brokers, with a stand-in for what it runs: each job ends once, as what it was."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import Refusal
from guideway.schemas.output import Choice
from guideway.training.jobs import job_topics
from guideway.training.jobs.messages import Job, JobEnded, JobEvent, JobNews
from guideway.training.jobs.service import JobService, TrainerSettings
from guideway.training.runs.task import Data, Task

STAND_IN = (sys.executable, "-S", str(Path(__file__).with_name("fake_job_process.py")))
TASK = Task(
    namespace="shop", endpoint="mood", model_sizes=["small"], data=Data(train="/rows"), output=Choice(["a", "b"])
)

Submit = Callable[..., Awaitable[Job]]


@pytest.fixture
async def submit(broker: RunningBroker, unique_name: str) -> Submit:
    """Submits a job that behaves as its description says."""
    await topics.apply(broker.bootstrap, topics.training())

    async def submit(behaviour: str, *, publish: bool = False) -> Job:
        task = msgspec.structs.replace(TASK, description=behaviour)
        job = Job(id=f"{unique_name}-{behaviour.replace(' ', '-')}", task=task, publish=publish)
        await job_topics.submit(broker.bootstrap, job)
        return job

    return submit


@contextlib.asynccontextmanager
async def trainer(broker: RunningBroker, jobs: Path) -> AsyncIterator[JobService]:
    service = JobService(TrainerSettings(bootstrap=broker.bootstrap, jobs=jobs, command=STAND_IN))
    running = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.stop()
        await asyncio.wait_for(running, 30)


async def end_of(broker: RunningBroker, job: Job) -> tuple[list[JobEvent], JobEnded]:
    """All that was told of the job, each once."""
    async with asyncio.timeout(60):
        news: list[JobNews] = [one async for one in job_topics.watch(broker.bootstrap, job.id)]
    *events, ended = news
    assert isinstance(ended, JobEnded)
    return [event for event in events if isinstance(event, JobEvent)], ended


async def until_told(broker: RunningBroker, job: Job, number: int) -> None:
    async with asyncio.timeout(60):
        async for one in job_topics.watch(broker.bootstrap, job.id):
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
        assert Path(ended.run) == tmp_path / brief.id / "run"
        _, ended = await end_of(broker, bad)
        assert (ended.outcome, ended.code, ended.message) == ("failed", "invalid_data", "row 3: correct it")
        _, ended = await end_of(broker, survivor)
        assert ended.outcome == "done"
        _, ended = await end_of(broker, hopeless)
        assert (ended.outcome, ended.code) == ("failed", "internal_error")
        assert "exit code -9" in ended.message


async def test_a_cancelled_job_ends_or_never_begins(broker: RunningBroker, submit: Submit, tmp_path: Path) -> None:
    never = await submit("brief")
    await job_topics.cancel(broker.bootstrap, never.id)
    async with trainer(broker, tmp_path):
        events, ended = await end_of(broker, never)
        assert (events, ended.outcome) == ([], "cancelled")
        endless = await submit("endless")
        await until_told(broker, endless, 3)
        await job_topics.cancel(broker.bootstrap, endless.id)
        events, ended = await end_of(broker, endless)
        assert ended.outcome == "cancelled"
        assert len(events) >= 3
        with pytest.raises(Refusal, match="has ended already: it is cancelled"):
            await job_topics.cancel(broker.bootstrap, endless.id)
        with pytest.raises(Refusal, match="there is no job 'nothing'"):
            await job_topics.cancel(broker.bootstrap, "nothing")


async def test_a_trainer_that_stops_leaves_its_job_to_the_next(
    broker: RunningBroker, submit: Submit, tmp_path: Path
) -> None:
    async with trainer(broker, tmp_path):
        endless = await submit("endless")
        await until_told(broker, endless, 3)
    async with trainer(broker, tmp_path):
        before = len((tmp_path / endless.id / "run" / "events.jsonl").read_text().splitlines())
        await until_told(broker, endless, before + 3)
        await job_topics.cancel(broker.bootstrap, endless.id)
        events, ended = await end_of(broker, endless)
    assert ended.outcome == "cancelled"
    assert [event.number for event in events] == [*range(1, len(events) + 1)]
