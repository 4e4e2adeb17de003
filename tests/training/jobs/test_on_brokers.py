"""Jobs from the training topic, with trainers as processes: carried out, watched, cancelled, taken over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.conftest import ONE_OF_KINDS
from tests.workers.engine.conftest import tiny_llama, tiny_tokenizer

from guideway.catalogue.archive.rows import Row
from guideway.infra.local_broker import RunningBroker
from guideway.producers.targets.archiving import Archiving
from guideway.schemas.kinds.targets import ArchiveRule
from guideway.schemas.names.service_topics import training_events_topic
from guideway.training.jobs import job_topics
from guideway.training.jobs.job_topics import records
from guideway.training.jobs.messages import JOB_NEWS, Job, JobEnded, JobEvent
from guideway.training.runs.events import MethodStarted, Resumed, RunStarted, Scored, Step, Stopped
from guideway.training.runs.task import Task

pytestmark = pytest.mark.timeout(300)


@dataclass
class Workshop:
    """A folder with a tiny model, tasks and jobs, and the trainers on them."""

    broker: RunningBroker
    home: Path
    trainers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.cluster.brokers,
            "GUIDEWAY_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
        }

    def task(self, name: str, **stop: Any) -> Path:
        """A task of 60 rows for the tiny model."""
        rows = [{"text": f"row {i} of {name}", "label": "yes" if i % 3 else "no"} for i in range(60)]
        (self.home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        document = {
            "kind": "task/v1",
            "namespace": "shop",
            "endpoint": name,
            "model_sizes": ["tiny"],
            "models": "models.yaml",
            "data": {"train": f"{name}.jsonl", "folds": 0},
            "output": {"type": "choice", "labels": ["yes", "no"]},
            "prompts": {"candidates": 0},
            "methods": [{"form": "soft_prompt", "virtual_tokens": 4, "initial_text": "yes no"}],
            "schedule": {"rows_per_step": 8, "dtype": "float32", "checkpoint_every_s": 0},
            "stop": {"patience": None, **stop},
        }
        file = self.home / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def start_trainer(self) -> subprocess.Popen[bytes]:
        with (self.home / f"trainer-{len(self.trainers)}.log").open("ab") as log:
            trainer = subprocess.Popen(
                [sys.executable, "-m", "guideway", "trainer", "--no-restart"], stdout=log, stderr=log, env=self.environ
            )
        self.trainers.append(trainer)
        return trainer

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "guideway", "studio", *arguments, "--json"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=200,  # a slow machine trains 600 steps in a hundred seconds
            check=False,
        )

    def applied(self, *files: Path) -> None:
        """Have manifests in the catalogue."""
        subprocess.run(
            [sys.executable, "-m", "guideway", "apply", *(word for file in files for word in ("-f", str(file)))],
            env=self.environ,
            capture_output=True,
            timeout=80,
            check=True,
        )

    def submit(self, task: Path) -> str:
        run = self.command("submit", str(task))
        assert run.returncode == 0, run.stdout + run.stderr
        return str(json.loads(run.stdout)["job"])

    def news(self, job: str) -> list[JobEvent | JobEnded]:
        """All that is told of a job so far, repeats included."""

        async def read() -> list[JobEvent | JobEnded]:
            found = records(self.broker.cluster, training_events_topic("shop"), follow=False)
            return [
                news
                async for record in found
                if (news := JOB_NEWS.decode(record.value)).job == job.removeprefix("shop/")
            ]

        return asyncio.run(read())

    def until_step(self, job: str, step: int) -> None:
        """Wait until the job's training has come so far."""
        deadline = time.monotonic() + 60
        while not any(isinstance(one, JobEvent) and _step(one) >= step for one in self.news(job)):
            assert time.monotonic() < deadline, "the job does not get on"
            time.sleep(0.3)

    def until_ended(self, job: str) -> JobEnded:
        """How the job has ended, when it has."""
        deadline = time.monotonic() + 100
        while not (ended := [one for one in self.news(job) if isinstance(one, JobEnded)]):
            assert time.monotonic() < deadline, "the job does not end"
            time.sleep(0.3)
        return ended[0]

    def at_work(self) -> subprocess.Popen[bytes]:
        """The trainer that has a run under it."""
        [found] = [trainer for trainer in self.trainers if trainer.poll() is None and _children(trainer.pid)]
        return found

    def stop(self) -> None:
        for trainer in self.trainers:
            with contextlib.suppress(ProcessLookupError):
                trainer.send_signal(signal.SIGTERM)
        for trainer in self.trainers:
            trainer.wait(60)


def _step(news: JobEvent) -> int:
    return news.event.step if isinstance(news.event, Step) else 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module", params=ONE_OF_KINDS)
def broker(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> RunningBroker:
    """A broker, one for a module: of one kind, unless all are asked for."""
    return broker_of_kind(request.param)


@pytest.fixture
def workshop(broker: RunningBroker, tmp_path: Path) -> Iterator[Workshop]:
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    model = {"kind": "model/v1", "namespace": "public", "name": "tiny", "source": str(tmp_path / "tiny")}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(model | {"dtype": "float32", "max_context_tokens": 256}))
    made = Workshop(broker, tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.model
def test_jobs_are_carried_out_watched_and_cancelled(workshop: Workshop) -> None:
    workshop.start_trainer()
    job = workshop.submit(workshop.task("brief", max_steps=12))
    watched = workshop.command("watch", job)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    *events, ended = [json.loads(line) for line in watched.stdout.splitlines()]
    assert ended["outcome"] == "done"
    assert [one["step"] for one in events if one["event"] == "step"] == [*range(1, 13)]
    assert [one["method"] for one in events if one["event"] == "scored"] == ["bare", "soft-prompt"]
    assert (Path(ended["run"]) / "report.html").is_file()

    endless = workshop.submit(workshop.task("endless", max_steps=1_000_000))
    waiting = workshop.submit(workshop.task("waiting", max_steps=12))
    workshop.until_step(endless, 3)
    assert workshop.command("cancel", waiting).returncode == 0
    assert workshop.command("cancel", endless).returncode == 0
    for one in (endless, waiting):
        assert workshop.command("watch", one).returncode == 130
    assert not any(isinstance(one, JobEvent) and isinstance(one.event, Step) for one in workshop.news(waiting))
    again = workshop.command("cancel", endless)
    assert again.returncode == 1
    assert "has ended already" in again.stdout
    unknown = workshop.command("watch", "shop/shop-nothing")
    assert "there is no job 'shop-nothing'" in unknown.stdout


@pytest.mark.model
def test_a_killed_trainers_job_goes_on_elsewhere_from_its_checkpoint(workshop: Workshop) -> None:
    workshop.start_trainer()
    workshop.start_trainer()
    job = workshop.submit(workshop.task("long", max_steps=600))
    workshop.until_step(job, 20)
    killed = workshop.at_work()
    killed.kill()
    watched = workshop.command("watch", job)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    news = workshop.news(job)
    assert sum(isinstance(one, JobEnded) for one in news) == 1
    events = {one.number: one.event for one in news if isinstance(one, JobEvent)}
    [started] = [event for event in events.values() if isinstance(event, MethodStarted)]
    assert started.initial_text == "yes no"
    resumed = [event.step for event in events.values() if isinstance(event, Resumed)]
    assert resumed
    assert min(resumed) >= 19
    [stopped] = [event for event in events.values() if isinstance(event, Stopped)]
    assert (stopped.rule, stopped.step) == ("max_steps", 600)
    assert killed.wait(5) == -signal.SIGKILL


@pytest.mark.model
def test_a_job_learns_from_the_archive_of_its_namespace_and_of_no_other(workshop: Workshop) -> None:
    rule = ArchiveRule()

    async def archive() -> None:
        """What `guideway targets` writes."""
        like = Row(row="", id="", at_ms=time.time_ns() // 10**6, endpoint_version=1)
        rows = [
            msgspec.structs.replace(like, row=f"r{n}", id=f"i{n}", text=f"row {n}", value="no" if n % 3 else "yes")
            for n in range(60)
        ]
        async with Archiving(str(workshop.home / "store"), lambda *_: rule, gather_s=0.01) as archiving:
            await asyncio.gather(*(archiving.add("shop", "kept", rule, row) for row in rows))

    asyncio.run(archive())
    task = yaml.safe_load(workshop.task("kept", max_steps=2).read_text())
    task["data"] = {"archive": "/shop/kept", "folds": 0}
    file = workshop.home / "kept.yaml"
    file.write_text(yaml.safe_dump(task))
    kept = {"kind": "endpoint/v1", "namespace": "shop", "name": "kept", "model_size": "tiny", "archive": True}
    (workshop.home / "endpoint.yaml").write_text(yaml.safe_dump(kept | {"output": task["output"]}))
    workshop.applied(workshop.home / "models.yaml", workshop.home / "endpoint.yaml")
    job = workshop.submit(file)
    # Written by hand, past whatever `submit` says.
    theirs = msgspec.convert(task | {"data": {"archive": "/rival/kept"}}, Task)
    asyncio.run(job_topics.submit(workshop.broker.cluster, Job(id="stolen", task=theirs)))
    workshop.start_trainer()
    ended, refused = workshop.until_ended(job), workshop.until_ended("shop/stolen")
    assert (ended.outcome, ended.code) == ("done", ""), ended.message
    events = [one.event for one in workshop.news(job) if isinstance(one, JobEvent)]
    [started] = [event for event in events if isinstance(event, RunStarted)]
    assert started.archived is not None
    assert started.archived.rows == started.train_rows + started.validation_rows + started.eval_rows == 60
    assert {event.metric for event in events if isinstance(event, Scored)} == {"agreement"}
    assert b"row 7" not in (Path(ended.run) / "events.jsonl").read_bytes()
    assert (refused.outcome, refused.code) == ("failed", "not_allowed")
    assert "a task of shop may not read it" in refused.message
