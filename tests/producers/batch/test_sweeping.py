"""For how long the store keeps what became of batch jobs."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.producers.batch.stand_in import rows

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.batch import service
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.jobs import Job, Jobs
from guideway.producers.batch.splitting import split
from guideway.producers.batch.sweeping import DAY_S, gone, jobs_in, sweep
from guideway.schemas.failures import Refusal
from guideway.schemas.services.batch import BatchDeleted, BatchEnded, BatchJob, Counts
from guideway.schemas.wire import BATCH_WISH

NOW, KEPT_S = 1_800_000_000.0, 30.0 * DAY_S


@pytest.mark.parametrize(("ended_days", "changed_days", "what"), [
    (29, None, "nothing"),
    (31, None, "results"),
    (91, None, "results"),
    (93, None, "all"),
    (-5, None, "nothing"),
    (None, 36, "nothing"),
    (None, 38, "all"),
    (None, None, "nothing"),
])  # fmt: skip
def test_what_is_removed_of_a_job(ended_days: int | None, changed_days: int | None, what: str) -> None:
    ended_s, changed_s = (None if days is None else NOW - days * DAY_S for days in (ended_days, changed_days))
    assert gone(ended_s, changed_s, NOW, KEPT_S) == what


def folder_of(store: str, namespace: str, job: str, *, ended_days: float | None) -> JobFolder:
    folder = JobFolder(store, namespace, job)
    split(rows(["a"], namespace), folder)
    if ended_days is not None:
        folder.owner("gw.shop.batch.v1/0/0/1")
        with folder.writing("output.jsonl") as (file,):
            file.write(b"{}\n")
        at_ms = int((time.time() - ended_days * DAY_S) * 1000)
        folder.end(BatchEnded(job=job, at_ms=at_ms, outcome="done", counts=Counts(), output="output.jsonl"))
    return folder


@pytest.mark.parametrize("store", ["memory://sweeping-{}", "{}"], ids=["memory", "folder"])
def test_results_go_after_a_while_and_what_is_younger_stays(store: str, tmp_path: Path) -> None:
    store = store.format(tmp_path)
    days = {"young": 1.0, "old": 40.0, "ancient": 100.0}
    folders = {name: folder_of(store, "shop", name, ended_days=age) for name, age in days.items()}
    running = folder_of(store, "desk", "running", ended_days=None)
    assert sorted(jobs_in(store)) == [("desk", "running"), ("shop", "ancient"), ("shop", "old"), ("shop", "young")]
    assert sweep(store, "desk", time.time(), KEPT_S) == 0
    assert sweep(store, None, time.time(), KEPT_S) == 2
    assert [name for name, one in folders.items() if one.is_to_be_taken("output.jsonl")] == ["young"]
    assert running.changed_s() == pytest.approx(time.time(), abs=60)
    assert sorted(jobs_in(store)) == [("desk", "running"), ("shop", "old"), ("shop", "young")]
    assert folders["old"].ended() is not None, "its record may come again"
    assert folders["old"].is_begun()
    assert sweep(store, None, time.time(), KEPT_S) == 0


def test_a_batcher_that_ends_removes_no_more(tmp_path: Path) -> None:
    for number in range(3):
        folder_of(str(tmp_path), "shop", f"old{number}", ended_days=100)
    looks = iter([False, True])
    assert sweep(str(tmp_path), None, time.time(), KEPT_S, lambda: next(looks)) == 1
    assert len(list(jobs_in(str(tmp_path)))) == 2
    assert sweep(str(tmp_path), None, time.time(), KEPT_S) == 2, "the next one goes on"


async def test_a_batcher_that_ends_does_not_wait_for_its_sweeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def long(_store: str, _namespace: object, _now: float, _kept_s: float, is_over: Callable[[], bool]) -> int:
        begun.set()
        for _ in range(200):
            if is_over():
                ended.set()
                break
            time.sleep(0.05)
        return 0

    monkeypatch.setattr(service, "sweep", long)
    monkeypatch.setattr(service, "_SWEEP_S", 0.01)
    batcher = service.BatchService(service.BatcherSettings(cluster=Cluster("127.0.0.1:1"), store=str(tmp_path)))
    sweeping = asyncio.create_task(batcher._sweep())
    assert await asyncio.to_thread(begun.wait, 5)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping
    assert await asyncio.to_thread(ended.wait, 5)


def test_what_a_command_that_was_killed_has_left_goes(tmp_path: Path) -> None:
    folder_of(str(tmp_path), "shop", "half", ended_days=None)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - 40 * DAY_S,) * 2)
    assert sweep(str(tmp_path), None, time.time(), KEPT_S) == 1
    assert not list(jobs_in(str(tmp_path)))


def test_what_is_no_job_stays(tmp_path: Path) -> None:
    """The store is the artefacts' as well, and somebody may have put a file in between."""
    for path in ("batch.v1/notes.txt", "batch.v1/shop/.hidden/x", "batch.v1/Not A Name/job/x", "shop/sha256/x"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        os.utime(file, (1, 1))
    assert list(jobs_in(str(tmp_path))) == []
    assert sweep(str(tmp_path), None, time.time(), KEPT_S) == 0


class Topics(Jobs):
    """One job, which has ended or not."""

    def __init__(self, store: Path, *, has_ended: bool) -> None:
        super().__init__(Cluster("localhost:1"), str(store))
        self.has_ended, self.sent = has_ended, list[bytes]()

    async def list(self, namespace: str) -> list[Job]:
        job = BatchJob(id="old", rows=1, pieces=1, index="0" * 64, secret="0" * 32, submitted_ms=1, deadline_ms=2)
        ended = BatchEnded(job="old", at_ms=3, outcome="done", counts=Counts(), output="output.jsonl")
        return [Job(namespace=namespace, job=job, ended=ended if self.has_ended else None)]

    async def _send(self, topic: str, key: str, value: bytes) -> None:
        assert (topic, key) == ("gw.shop.batch-cancel.v1", "old")
        self.sent.append(value)


async def test_a_job_that_is_deleted_has_no_results_and_is_said_to_be_gone(tmp_path: Path) -> None:
    folder = folder_of(str(tmp_path), "shop", "old", ended_days=1)
    jobs = Topics(tmp_path, has_ended=True)
    assert (await jobs.delete("shop", "old")).state == "done"
    assert not folder.is_to_be_taken("output.jsonl")
    assert folder.ended() is not None
    assert [BATCH_WISH.decode(one) for one in jobs.sent] == [BatchDeleted(job="old")]


async def test_a_job_that_goes_on_is_not_deleted(tmp_path: Path) -> None:
    folder = folder_of(str(tmp_path), "shop", "old", ended_days=1)
    jobs = Topics(tmp_path, has_ended=False)
    with pytest.raises(Refusal, match="shop/old is waiting: cancel it"):
        await jobs.delete("shop", "old")
    assert folder.is_to_be_taken("output.jsonl")
    assert not jobs.sent
