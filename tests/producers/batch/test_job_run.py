"""What becomes of a job whose brokers, partitions or pieces come and go: no brokers are needed for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaTimeoutError
from tests.producers.batch.stand_in import rows
from tests.producers.gateway.openai.made import reply

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.batch import job_run, service, trouble
from guideway.producers.batch.files.row import BadRow, BatchRow
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.job_run import JobRun
from guideway.producers.batch.jobs import Jobs, Wanted
from guideway.producers.batch.road import Road, Way
from guideway.producers.batch.service import BatcherSettings, BatchService
from guideway.producers.batch.splitting import split
from guideway.producers.batch.stored import Decision, RequestIds
from guideway.producers.batch.trouble import rest_after
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import batch_topic
from guideway.schemas.record import Record
from guideway.schemas.reply import Failed
from guideway.schemas.services.batch import BatchEnded, BatchJob, BatchProgress, Counts
from guideway.schemas.wire import BATCH_JOB, BATCH_NEWS, REPLY

CLUSTER = Cluster("localhost:1")
DONE = BatchEnded(job="batch-1", at_ms=5, outcome="done", counts=Counts(sent=1, completed=1), output="output.jsonl")


def job_in(folder: JobFolder) -> BatchJob:
    written = split(rows(["a"], "shop"), folder)
    return BatchJob(
        id="batch-1",
        rows=1,
        pieces=written.pieces,
        index=written.index,
        secret="0" * 32,
        submitted_ms=1,
        deadline_ms=9_999_999_999_999,
    )


def run_of(
    folder: JobFolder, job: BatchJob, told: asyncio.Queue[BatchProgress], joining: asyncio.Lock | None = None
) -> JobRun:
    return JobRun(
        CLUSTER, folder, job, Way("shop", job, 0), told.put, share=lambda: 1, joining=joining or asyncio.Lock()
    )


def files_below(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file()]


class Closed:
    """A road that opens, and takes nothing."""

    committed = staticmethod(lambda: _soon((0, "")))
    first_reply = end_of_replies = position = staticmethod(lambda: _soon(0))

    def read_from(self, offset: int) -> None:
        assert offset == 0

    async def publish(self, *_: Any) -> None:
        raise KafkaTimeoutError


async def _soon(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def test_a_road_that_opens_and_takes_nothing_is_told_as_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def opens(*_: Any) -> AsyncIterator[Closed]:
        yield Closed()

    monkeypatch.setattr(Road, "open", opens)
    monkeypatch.setattr(trouble, "LONGEST_REST_S", 0.0)
    folder, told = JobFolder(str(tmp_path), "shop", "batch-1"), asyncio.Queue[BatchProgress]()
    running = asyncio.create_task(run_of(folder, job_in(folder), told).carry_out())
    try:
        async with asyncio.timeout(10):
            while not (await told.get()).trouble.startswith("the brokers do not take its rows: KafkaTimeoutError"):
                pass
    finally:
        running.cancel()


async def test_jobs_that_only_wait_take_no_rows_from_one_that_moves() -> None:
    made: Any = BatchService(BatcherSettings(cluster=CLUSTER, store="memory://jobs"))
    made._at_hand = {("shop", f"batch-{n}"): SimpleNamespace(rests=n > 0) for n in range(10)}
    made._at_hand["news", "batch-1"] = SimpleNamespace(rests=False)
    assert made._share(("shop", "batch-0")) == 1
    assert made._share(("shop", "batch-1")) == 10, "else each of them would send as many as if it were alone"
    assert made._share(("news", "batch-1")) == 1


@pytest.mark.parametrize("outcome", ["cancelled", "expired"])
async def test_a_job_that_is_called_off_ends_though_its_road_never_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    """As where the topics of its namespace are gone, or may not be written any more."""

    @asynccontextmanager
    async def opens(*_: Any) -> AsyncIterator[Closed]:
        raise KafkaTimeoutError
        yield Closed()

    monkeypatch.setattr(Road, "open", opens)
    monkeypatch.setattr(trouble, "LONGEST_REST_S", 0.0)
    monkeypatch.setattr(job_run, "_GIVES_UP_S", 0.05)
    folder, told = JobFolder(str(tmp_path), "shop", "batch-1"), asyncio.Queue[BatchProgress]()
    run = run_of(folder, job_in(folder) if outcome == "cancelled" else late(job_in(folder)), told)
    if outcome == "cancelled":
        run.cancel()
    ended = await asyncio.wait_for(run.carry_out(), 10)
    assert (ended.outcome, ended.counts.completed) == (outcome, 0)


def late(job: BatchJob) -> BatchJob:
    return msgspec.structs.replace(job, deadline_ms=1)


@pytest.mark.parametrize(
    ("code", "is_cancelled", "outcome"),
    [
        (None, False, "done"),
        (FailureCode.DEADLINE_EXCEEDED, False, "expired"),
        (None, True, "cancelled"),
        (FailureCode.CANCELLED, True, "cancelled"),
    ],
)
async def test_how_a_job_ends_whose_last_reply_is_read_when_it_is_called_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: FailureCode | None, is_cancelled: bool, outcome: str
) -> None:
    """The batcher that collects the last reply may be the second one, and late."""
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    job = msgspec.structs.replace(job_in(folder), deadline_ms=2**50 if is_cancelled else 1)
    id_ = RequestIds(job.id, job.secret).of(0)
    answer = (
        msgspec.structs.replace(reply("glad"), id=id_)
        if code is None
        else Failed(id=id_, namespace="shop", endpoint="write", code=code, message="late", retryable=False)
    )

    class Answered(Closed):
        committed = staticmethod(lambda: _soon((1, "0:0")))
        replies = staticmethod(lambda _timeout_s: _soon([REPLY.encode(answer)]))
        cancel = staticmethod(lambda _rows: _soon(None))

    @asynccontextmanager
    async def opens(*_: Any) -> AsyncIterator[Answered]:
        yield Answered()

    monkeypatch.setattr(Road, "open", opens)
    run = run_of(folder, job, asyncio.Queue())
    if is_cancelled:
        run.cancel()
    ended = await asyncio.wait_for(run.carry_out(), 10)
    assert (ended.outcome, ended.counts.completed) == (outcome, int(code is None))


def test_brokers_that_are_gone_over_a_night_are_tried_again_as_after_a_minute() -> None:
    assert [rest_after(failures) for failures in (1, 3, 10, 5000)] == [0.4, 1.6, 30.0, 30.0]


async def test_a_job_whose_record_comes_again_after_its_pieces_are_gone_ends_as_it_has_ended(tmp_path: Path) -> None:
    """The group's offsets are forgotten after a week without a batcher."""
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    job = job_in(folder)
    folder.end(DONE)
    folder.forget_pieces()
    assert await run_of(folder, job, asyncio.Queue()).carry_out() == DONE


async def test_a_batcher_that_cannot_write_the_results_says_so_before_a_row_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise Refusal(FailureCode.INVALID_SETTING, "install guideway[batch]")

    monkeypatch.setattr(job_run, "require_parquet", missing)
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    job = msgspec.structs.replace(job_in(folder), form="parquet")
    ended = await asyncio.wait_for(run_of(folder, job, asyncio.Queue()).carry_out(), 5)
    assert (ended.outcome, ended.code, ended.message) == ("failed", "invalid_setting", "install guideway[batch]")


async def test_a_batcher_with_another_store_says_what_differs(tmp_path: Path) -> None:
    job = job_in(JobFolder(str(tmp_path / "one"), "shop", "batch-1"))
    other = JobFolder(str(tmp_path / "other"), "shop", "batch-1")
    ended = await asyncio.wait_for(run_of(other, job, asyncio.Queue()).carry_out(), 5)
    assert ended.outcome == "failed"
    assert "the batcher's store has no rows of it, or is another GUIDEWAY_STORE" in ended.message


async def test_a_store_that_does_not_answer_at_all_is_told_to_those_who_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "batch.v1").write_bytes(b"")
    made, told = BatchService(BatcherSettings(cluster=CLUSTER, store=str(tmp_path))), asyncio.Queue[BatchProgress]()

    async def tell(_: str, progress: BatchProgress) -> None:
        await told.put(progress)

    monkeypatch.setattr(made, "_tell", tell)
    job = job_in(JobFolder(str(tmp_path / "one"), "shop", "batch-1"))
    record = Record(topic="gw.shop.batch.v1", partition=0, offset=7, timestamp_ms=1, key=None, value=b"")
    asking = asyncio.create_task(made._is_first("shop", job, record))
    try:
        assert (await asyncio.wait_for(told.get(), 10)).trouble.startswith("the store cannot be used (")
    finally:
        asking.cancel()


async def test_a_job_that_could_not_be_submitted_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    """A store that is full would stay full."""

    def broken() -> Iterator[BatchRow | BadRow]:
        yield from rows(["a"] * 600, "shop")
        raise Refusal(FailureCode.INVALID_DATA, "the file ends too early")

    with pytest.raises(Refusal, match="ends too early"):
        await Jobs(CLUSTER, str(tmp_path)).submit("shop", broken(), Wanted())
    assert not files_below(tmp_path)


async def test_a_job_that_comes_back_before_its_last_run_has_let_go_of_it_is_taken_up(
    tmp_path: Path,
) -> None:
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    job = job_in(folder)
    folder.end(DONE)
    made = BatchService(BatcherSettings(cluster=CLUSTER, store=str(tmp_path)))
    before = made._at_hand["shop", job.id] = run_of(folder, job, asyncio.Queue())
    topic, value = batch_topic("shop"), BATCH_JOB.encode(job)
    record = Record(topic=topic, partition=0, offset=7, timestamp_ms=1, key=None, value=value)
    handling = asyncio.create_task(made._handle(record))
    done, _ = await asyncio.wait([handling], timeout=0.5)
    assert not done
    del made._at_hand["shop", job.id]
    before.let_go.set()
    (told,) = await asyncio.wait_for(handling, 10)
    assert BATCH_NEWS.decode(told.value) == DONE


async def test_of_two_records_of_one_job_that_come_at_a_time_one_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, carried = JobFolder._put, list[int]()

    def slow(folder: JobFolder, name: str, data: bytes) -> None:
        time.sleep(0.1)
        put(folder, name, data)

    async def carry_out(_namespace: str, _job: BatchJob, record: Record) -> BatchEnded:
        carried.append(record.offset)
        return DONE

    monkeypatch.setattr(JobFolder, "_put", slow)
    job = job_in(JobFolder(str(tmp_path / "one"), "shop", "batch-1"))
    made = BatchService(BatcherSettings(cluster=CLUSTER, store=str(tmp_path)))
    monkeypatch.setattr(made, "_carry_out", carry_out)
    topic, value = batch_topic("shop"), BATCH_JOB.encode(job)
    records = [
        Record(topic=topic, partition=0, offset=offset, timestamp_ms=1, key=None, value=value) for offset in (7, 8, 9)
    ]
    told = await asyncio.gather(*(made._handle(record) for record in records))
    assert carried == [7]
    assert [len(one) for one in told] == [1, 0, 0]
    assert not made._choosing


async def test_watchers_are_told_again_what_has_changed_and_seldom_what_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody who lists jobs reads all of it."""
    sent: list[Any] = []

    class Producer:
        async def send(self, _topic: str, *, key: bytes, value: bytes) -> None:
            sent.append(BATCH_NEWS.decode(value))

    monkeypatch.setattr(service, "_TELL_S", 0.0)
    made = BatchService(BatcherSettings(cluster=CLUSTER, store=str(tmp_path)))
    made._producer = Producer()
    for at_ms, completed in ((1, 0), (2, 0), (3, 1), (4, 1)):
        counts = Counts(completed=completed)
        await made._tell("shop", BatchProgress(job="batch-1", at_ms=at_ms, stage="running", counts=counts))
    assert [one.at_ms for one in sent] == [1, 3]


async def test_jobs_of_a_namespace_are_joined_one_after_the_other(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    job = job_in(folder)
    folder.decide(Decision("cancelled", 5))
    joining, told = asyncio.Lock(), asyncio.Queue[BatchProgress]()
    async with joining:
        running = asyncio.create_task(run_of(folder, job, told, joining).carry_out())
        async with asyncio.timeout(10):
            while (await told.get()).stage != "ending":
                pass
        done, _ = await asyncio.wait([running], timeout=0.3)
        assert not done
    assert (await asyncio.wait_for(running, 10)).counts.failures == {"cancelled": 1}
