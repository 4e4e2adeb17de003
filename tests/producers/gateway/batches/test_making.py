"""Accepted batches become jobs beside all requests, whichever gateway lives. No brokers are needed for it."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import json
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from tests.producers.gateway.batches.stage import BEGIN_MS, END_MS, GOOD, ID, SHOP, Stage, Topics

from guideway.catalogue.entries import Catalogue
from guideway.producers.batch.files.check import check_file
from guideway.producers.batch.jobs import Job
from guideway.producers.gateway.batches import batches, making
from guideway.producers.gateway.batches.accepted import AcceptedBatch, AcceptedStore, Ask, NotMade, Standing
from guideway.producers.gateway.batches.file_store import About
from guideway.producers.gateway.batches.job_list import JobList
from guideway.producers.gateway.batches.making import Making
from guideway.producers.gateway.batches.objects import object_of
from guideway.producers.gateway.status import DoorRefusal
from guideway.schemas.services.batch import BatchJob


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "LOOK_S", 0.01)
    monkeypatch.setattr(making, "_AGAIN_S", 0.01)
    monkeypatch.setattr(making, "_SEEN_S", 0.02)


async def test_a_batch_becomes_a_job_that_keeps_its_id_and_its_times(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    before = stage.accepted.one(SHOP, ID)
    assert before is not None
    assert object_of(before)["status"] == "validating"
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        over = await stage.until_over()
        assert over is None, over
    (job,) = stage.jobs.published
    assert (job.id, job.rows, job.submitted_ms, job.deadline_ms) == (ID, 2, BEGIN_MS, END_MS)
    after = object_of(Job(namespace=SHOP, job=job))
    same = ("id", "created_at", "expires_at", "metadata", "endpoint", "input_file_id", "completion_window")
    assert {name: after[name] for name in same} == {name: object_of(before)[name] for name in same}
    assert not stage.accepted.left()


@pytest.mark.parametrize(("content", "name", "line", "why"), [
    (b'{"id": "a", "body": 1}\n', "rows.jsonl", 1, "the only row would fail, so nothing is sent. line 1: unknown"),
    (b"[{}]", "rows.jsonl", None, "is one JSON array"),
    (b"\n\n", "rows.jsonl", None, "has no rows"),
    (b"PK\x03\x04", "rows.xlsx", None, "an Excel file: save it as CSV"),
])  # fmt: skip
async def test_a_file_of_which_no_job_can_be_made_fails_its_batch_with_the_reason(
    tmp_path: Path, content: bytes, name: str, line: int | None, why: str
) -> None:
    stage = Stage(tmp_path)
    stage.accept(content, name=name)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        await stage.ended()
    standing = stage.accepted.one(SHOP, ID)
    assert standing is not None
    told = object_of(standing)
    (error,) = told["errors"]["data"]
    assert (told["status"], error["line"], error["param"]) == ("failed", line, "input_file_id")
    assert why in error["message"]
    assert told["failed_at"] is not None
    assert not stage.jobs.published
    assert not (tmp_path / "batch.v1" / SHOP / ID).exists()
    assert not stage.accepted.left(), "nobody tries it again"


async def test_what_a_gateway_that_died_has_accepted_is_not_lost(tmp_path: Path) -> None:
    """It may die before it begins, or while it reads."""
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    stage.accepted.put_lease(SHOP, ID, b"of one that is gone")
    async with stage.gateways():
        await stage.until_over()
    assert [one.id for one in stage.jobs.published] == [ID]


async def test_several_gateways_that_take_it_over_make_one_job(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    async with stage.gateways(3):
        await stage.until_over()
    assert {one.id for one in stage.jobs.published} == {ID}
    for one in stage.jobs.published:
        index = stage.jobs.folder(SHOP, ID).index(one.index)
        assert len(stage.jobs.folder(SHOP, ID).rows(index, 0)) == 2, "whichever of the records counts has its rows"


async def test_a_batch_whose_gateway_lives_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    began, go_on = threading.Event(), threading.Event()

    def slow(*_args: Any, **_more: Any) -> None:
        began.set()
        go_on.wait(20)

    monkeypatch.setattr(making, "check_file", slow)
    first, second = (
        Making(stage.gateway, stage.accepted, stage.files, stage.jobs, JobList(stage.jobs)) for _ in range(2)
    )
    first.begin(SHOP, ID)
    assert await asyncio.to_thread(began.wait, 20)
    # By turns: of two that look in their own time, a busy machine could let one look often and the other not at all.
    for number in range(2, 20 * making.SILENT_LOOKS):
        await first._look(number)
        await second._look(number)
    assert not second._under_way
    go_on.set()
    await stage.until_over()
    await asyncio.gather(*first._under_way.values())
    assert len(stage.jobs.published) == 1


async def test_a_gateway_that_ends_while_it_reads_leaves_the_batch_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    began, go_on = threading.Event(), threading.Event()

    def slow(*_args: Any, **_more: Any) -> None:
        began.set()
        go_on.wait(5)

    with monkeypatch.context() as patched:
        patched.setattr(making, "check_file", slow)
        async with stage.gateways() as (gateway,):
            gateway.begin(SHOP, ID)
            assert await asyncio.to_thread(began.wait, 5)
    go_on.set()
    standing = stage.accepted.one(SHOP, ID)
    assert standing is not None
    assert standing.ended is None
    assert not stage.jobs.published
    async with stage.gateways():
        await stage.until_over()
    assert [one.id for one in stage.jobs.published] == [ID]


@pytest.mark.parametrize("at", ["another gateway", "this gateway"])
async def test_a_batch_that_is_cancelled_while_its_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    stage = Stage(tmp_path)
    stage.accept(b"".join(json.dumps({"id": f"r{n}", "text": "x"}).encode() + b"\n" for n in range(300)))
    began, go_on = threading.Event(), threading.Event()

    def slow(*_args: Any, **_more: Any) -> None:
        began.set()
        go_on.wait(5)

    monkeypatch.setattr(making, "check_file", slow)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        assert await asyncio.to_thread(began.wait, 5)
        stage.accepted.cancel(SHOP, ID)
        standing = stage.accepted.one(SHOP, ID)
        assert standing is not None
        assert object_of(standing)["status"] == "cancelling"
        if at == "this gateway":
            gateway.cancelled(SHOP, ID)
        else:
            async with asyncio.timeout(5):
                while not gateway._given_up[SHOP, ID].is_set():
                    await asyncio.sleep(0.005)
        go_on.set()
        assert (await stage.ended()).outcome == "cancelled"
    assert not stage.jobs.published


async def test_a_job_that_was_published_as_somebody_cancelled_it_is_cancelled(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    send = stage.jobs._send

    async def cancelled_meanwhile(topic: str, key: str, value: bytes) -> None:
        stage.accepted.cancel(SHOP, ID)
        await send(topic, key, value)

    stage.jobs._send = cancelled_meanwhile  # type: ignore[method-assign]
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        await stage.until_over()
    assert stage.jobs.cancelled == [ID]


async def test_brokers_that_are_away_are_waited_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    stage.jobs.away = 3
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        await stage.until_over()
    assert [one.id for one in stage.jobs.published] == [ID]


async def test_a_batch_that_cannot_be_read_for_a_while_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    fails, read = [OSError(errno.EIO, "Input/output error")] * 3, stage.accepted._fs.cat_file

    def cat_file(path: str, *args: Any, **more: Any) -> bytes:
        if path.endswith(f"{ID}.batch") and fails:
            raise fails.pop()
        return bytes(read(path, *args, **more))

    monkeypatch.setattr(stage.accepted._fs, "cat_file", cat_file)
    with pytest.raises(OSError, match="Input"):
        stage.accepted.of(SHOP)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        async with asyncio.timeout(5):
            while not stage.jobs.published:
                await asyncio.sleep(0.005)
    assert not fails


async def test_a_file_that_cannot_be_read_to_its_end_now_is_not_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    packed = gzip.compress(b"".join(b'{"id": "r%d", "text": "%d"}\n' % (n, n * 7919) for n in range(3000)))
    stage.accept(packed, name="rows.jsonl.gz")
    fails = [OSError(errno.EIO, "Input/output error")]

    class Source(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() and fails:
                raise fails.pop()
            return super().read(min(size or 1000, 1000))

    monkeypatch.setattr(stage.files, "open", lambda *_: Source(packed))
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        assert await stage.until_over() is None
    assert [one.rows for one in stage.jobs.published] == [3000]
    assert not fails


async def test_a_gateway_whose_disk_is_full_leaves_its_batch_to_another_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)

    async def submit(*_args: Any, **_more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with stage.gateways(2) as (first, second):
        monkeypatch.setattr(first, "_jobs", ours := Topics(str(tmp_path)))
        monkeypatch.setattr(ours, "submit", submit)
        monkeypatch.setattr(second, "begin", lambda *_: None)
        first.begin(SHOP, ID)
        async with asyncio.timeout(5):
            while (SHOP, ID) in first._under_way:
                await asyncio.sleep(0.005)
        standing = stage.accepted.one(SHOP, ID)
        assert standing is not None
        told = object_of(standing)
        assert told["status"] == "validating"
        assert "(No space left on device), and has left it" in told["errors"]["data"][0]["message"]
        monkeypatch.setattr(second, "begin", partial(Making.begin, second))
        assert await stage.until_over() is None
    assert [one.id for one in stage.jobs.published] == [ID]
    assert not ours.published
    assert not stage.accepted.of(SHOP)


async def test_a_batch_that_cannot_be_made_now_keeps_no_other_of_its_namespace_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_MOST_FAULTS", 10**6)
    stage, other = Stage(tmp_path), ID[:-1] + "f"
    stage.accept(GOOD)
    stage.accept(b'{"id": "c", "text": "Good"}\n', name="other.jsonl", id_=other)
    plain = stage.files.open

    def broken(namespace: str, about: About) -> BinaryIO:
        if about.filename == "rows.jsonl":
            raise ValueError("the store says so of this file")
        return plain(namespace, about)

    monkeypatch.setattr(stage.files, "open", broken)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        gateway.begin(SHOP, other)
        async with asyncio.timeout(5):
            while not stage.jobs.published:
                await asyncio.sleep(0.005)
    assert [one.id for one in stage.jobs.published] == [other]


async def test_of_a_batch_that_another_gateway_has_made_meanwhile_no_trouble_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    tries = 0

    async def submit(*_args: Any, **_more: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == making._MOST_OS_ERRORS:
            stage.accepted.forget(SHOP, ID)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stage.jobs, "submit", submit)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        async with asyncio.timeout(5):
            while (SHOP, ID) in gateway._under_way:
                await asyncio.sleep(0.005)
    assert tries == making._MOST_OS_ERRORS
    assert f"{ID}.trouble" not in stage.accepted._names(SHOP)


async def test_a_gateway_that_is_alone_tries_again_what_it_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    fails = [OSError(errno.ENOSPC, "No space left on device")] * (making._MOST_OS_ERRORS + 1)
    submit = stage.jobs.submit

    async def short(*args: Any, **more: Any) -> BatchJob:
        if fails:
            raise fails.pop()
        return await submit(*args, **more)

    monkeypatch.setattr(stage.jobs, "submit", short)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        assert await stage.until_over() is None
    assert [one.id for one in stage.jobs.published] == [ID]


async def test_errors_that_only_the_store_knows_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    fails, about = [RuntimeError("503")] * 3, stage.files.about

    def read(namespace: str, id_: str) -> Any:
        if fails:
            raise fails.pop()
        return about(namespace, id_)

    monkeypatch.setattr(stage.files, "about", read)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        assert await stage.until_over() is None
    assert [one.id for one in stage.jobs.published] == [ID]


async def test_whoever_comes_too_late_leaves_the_rows_of_the_job_that_another_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It seemed to be dead, and finds that a right file is wrong, since it knows an older catalogue."""
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    old: Any = SimpleNamespace(**vars(stage.gateway) | {"catalogue_reader": SimpleNamespace(catalogue=Catalogue())})
    began, go_on = threading.Event(), threading.Event()

    def slow(source: Any, form: Any, *, catalogue: Catalogue, caller: str) -> Any:
        if catalogue is old.catalogue_reader.catalogue:
            began.set()
            go_on.wait(5)
        return check_file(source, form, catalogue=catalogue, caller=caller)

    monkeypatch.setattr(making, "check_file", slow)
    slow_one, other = (
        Making(gateway, stage.accepted, stage.files, stage.jobs, JobList(stage.jobs))
        for gateway in (old, stage.gateway)
    )
    slow_one.begin(SHOP, ID)
    assert await asyncio.to_thread(began.wait, 5)
    other.begin(SHOP, ID)
    await stage.until_over()
    go_on.set()
    await asyncio.gather(*slow_one._under_way.values())
    [job] = stage.jobs.published
    folder = stage.jobs.folder(SHOP, ID)
    assert len(folder.rows(folder.index(job.index), 0)) == 2


async def test_of_many_that_are_accepted_at_a_time_no_more_are_unfinished_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    monkeypatch.setattr(batches, "_MOST_UNFINISHED", 5)
    monkeypatch.setattr(Making, "begin", lambda *_: None)
    stage.gateway.run_beside = lambda _: None
    about = stage.files.put(SHOP, io.BytesIO(GOOD), len(GOOD), "rows.jsonl", None)
    service = batches.Batches(stage.gateway, stage.files, stage.accepted, stage.jobs, JobList(stage.jobs))
    asks = [
        Ask(input_file_id=about.id, endpoint="/shop/write", completion_window="24h", metadata={"n": str(n)})
        for n in range(20)
    ]
    found = await asyncio.gather(*(service._once(SHOP, ask, None) for ask in asks), return_exceptions=True)
    assert sum(isinstance(one, Standing) for one in found) == len(stage.accepted.of(SHOP)) == 5
    assert all(isinstance(one, Standing | DoorRefusal) for one in found)


async def test_of_batches_of_which_no_job_was_made_the_last_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    monkeypatch.setattr(batches, "_MOST_REFUSED", 3)
    monkeypatch.setattr(Making, "begin", lambda *_: None)
    stage.gateway.run_beside = lambda _: None
    about = stage.files.put(SHOP, io.BytesIO(GOOD), len(GOOD), "rows.jsonl", None)
    service = batches.Batches(stage.gateway, stage.files, stage.accepted, stage.jobs, JobList(stage.jobs))
    made = []
    for number in range(8):
        ask = Ask(input_file_id=about.id, endpoint="/shop/write", completion_window="24h")
        one = await service._once(SHOP, ask, None)
        assert isinstance(one, Standing)
        made.append(one.batch.id)
        stage.accepted.end(SHOP, one.batch.id, NotMade(outcome="failed", at_ms=number, message="wrong"))
    left = {one.batch.id for one in stage.accepted.of(SHOP)}
    assert left == set(made[-4:]), "the three that had ended last, and the new one"


async def test_a_batch_that_could_not_be_made_in_time_is_expired(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD, deadline_ms=BEGIN_MS + 1_000)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        assert (await stage.ended()).outcome == "expired"


async def test_a_file_that_is_gone_fails_its_batch(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.accept(GOOD)
    (about,) = stage.files.files(SHOP)
    stage.files.delete(SHOP, about.id)
    async with stage.gateways() as (gateway,):
        gateway.begin(SHOP, ID)
        ended = await stage.ended()
    assert (ended.outcome, ended.code) == ("failed", "unknown_request")


@pytest.mark.parametrize("store", ["memory://accepted-{}", "{}"], ids=["memory", "folder"])
def test_accepted_batches_are_those_of_their_namespace(store: str, tmp_path: Path) -> None:
    accepted = AcceptedStore(store.format(tmp_path))
    ask = Ask(input_file_id="file-1", endpoint="/shop/write", completion_window="24h")
    assert accepted.left() == []
    assert accepted.of(SHOP) == []
    for namespace, id_ in ((SHOP, "batch-1"), (SHOP, "batch-2"), ("desk", "batch-1")):
        accepted.put(namespace, AcceptedBatch(id=id_, ask=ask, created_ms=1, deadline_ms=2))
        accepted.put_lease(namespace, id_, b"me")
    accepted.cancel(SHOP, "batch-2")
    accepted.end("desk", "batch-1", NotMade(outcome="failed", at_ms=3, message="why"))
    found = {one.batch.id: one for one in accepted.of(SHOP)}
    assert (sorted(found), found["batch-2"].is_cancelled, found["batch-1"].is_cancelled) == (
        ["batch-1", "batch-2"],
        True,
        False,
    )
    assert sorted(accepted.left()) == [(SHOP, "batch-1"), (SHOP, "batch-2")]
    theirs = accepted.one("desk", "batch-1")
    assert theirs is not None
    assert theirs.ended is not None
    assert theirs.ended.message == "why"
    assert accepted.one(SHOP, "../desk/batch-1") is None
    accepted.forget(SHOP, "batch-1")
    assert accepted.one(SHOP, "batch-1") is None
    assert (accepted.over(3), accepted.over(4)) == ([], [("desk", "batch-1")])
    for namespace, id_ in ((SHOP, "batch-2"), ("desk", "batch-1")):
        accepted.forget(namespace, id_)
    assert not list(tmp_path.rglob("batch-*")), "nothing stays"
