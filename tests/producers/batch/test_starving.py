"""An endpoint whose workers are slow, or which has none, does not hold up the other rows of its job."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from tests.producers.batch.fake_road import Ground
from tests.producers.batch.stand_in import rows

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.batch import job_run, open_piece, window
from guideway.producers.batch.files.row import BatchRow
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.job_run import JobRun
from guideway.producers.batch.road import Road, Way
from guideway.producers.batch.splitting import split
from guideway.producers.batch.stored import SentRow
from guideway.schemas.services.batch import BatchEnded, BatchJob, BatchProgress

DEAD = "/shop/dead"
QUIET_ROWS = window.WINDOW_ROWS // 4


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "PATIENCE_S", 0.05)
    monkeypatch.setattr(job_run, "_WAIT_S", 0.002)
    monkeypatch.setattr(job_run, "_LAST_REPLIES_S", 0.2)


class Stage:
    """A job of these endpoints, a row each in turn or as they are."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, endpoints: list[str], **more: object) -> None:
        self.folder = JobFolder(str(path), "shop", "batch-1")
        self.endpoints = endpoints
        made = [
            msgspec.structs.replace(row, endpoint=endpoint)
            for row, endpoint in zip(rows([f"t{n}" for n in range(len(endpoints))], "shop"), endpoints, strict=True)
            if isinstance(row, BatchRow)
        ]
        written = split(made, self.folder)
        job = BatchJob(
            id="batch-1",
            rows=written.rows,
            pieces=written.pieces,
            index=written.index,
            secret="5e" * 16,
            submitted_ms=1,
            deadline_ms=2**50,
        )
        self.job = msgspec.structs.replace(job, **more)
        self.dead = {DEAD}
        self.answer: Callable[[SentRow], str] = lambda row: json.loads(row.content)["text"]
        self.ground = Ground(self.job, lambda row: None if row.endpoint in self.dead else self.answer(row))
        self.told: list[BatchProgress] = []
        self.run: JobRun
        monkeypatch.setattr(Road, "open", self.ground.open)

    @asynccontextmanager
    async def batcher(self) -> AsyncIterator[asyncio.Task[BatchEnded]]:
        """One that is killed at the end."""
        way = Way("shop", self.job, 0)

        async def tell(progress: BatchProgress) -> None:
            self.told.append(progress)

        self.run = JobRun(
            Cluster("localhost:1"), self.folder, self.job, way, tell, share=lambda: 1, joining=asyncio.Lock()
        )
        running = asyncio.create_task(self.run.carry_out())
        try:
            yield running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def until(self, completed: int) -> None:
        async with asyncio.timeout(60):
            while self.run.counts.completed < completed:
                await asyncio.sleep(0.005)

    def published(self, endpoint: str) -> int:
        return sum(self.endpoints[number] == endpoint for number in self.ground.published)

    def output(self, name: str = "output.jsonl") -> list[dict[str, object]]:
        with self.folder.reading(name) as file:
            return [json.loads(line) for line in file]


def in_turn(count: int) -> list[str]:
    return [("/shop/a", DEAD, "/shop/b")[number % 3] for number in range(count)]


@pytest.mark.parametrize(
    "endpoints",
    [
        in_turn(9000),
        [DEAD] * 3000 + ["/shop/a"] * 3000,
        ["/shop/a"] * 1000 + [DEAD] * 1500 + ["/shop/a"] * 500 + [DEAD] * 700 + ["/shop/b"] * 300,
        [DEAD if number % 480 == 7 else "/shop/a" for number in range(24_000)],
    ],
    ids=["in turn", "in two halves", "in blocks", "few among many"],
)
async def test_the_others_go_on_and_the_endpoint_is_caught_up_when_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoints: list[str]
) -> None:
    stage = Stage(tmp_path, monkeypatch, endpoints)
    lively = sum(one != DEAD for one in endpoints)
    async with stage.batcher() as running:
        await stage.until(lively)
        assert stage.run.counts.completed == lively
        assert stage.published(DEAD) <= QUIET_ROWS
        held = stage.run._window
        assert held is not None
        assert held.unanswered <= QUIET_ROWS
        assert sum(piece.held_bytes for piece in held.open.values()) < window.HELD_BYTES
        async with asyncio.timeout(60):
            while "nothing is answered by /shop/dead" not in stage.told[-1].trouble:
                await asyncio.sleep(0.005)
        stage.dead.clear()
        ended = await asyncio.wait_for(running, 60)
    assert (ended.outcome, ended.counts.completed) == ("done", len(endpoints))
    assert set(stage.ground.published.values()) == {1}
    assert [one["id"] for one in stage.output()] == [f"r{n}" for n in range(1, len(endpoints) + 1)]
    assert [one["value"] for one in stage.output()[:3]] == ["t0", "t1", "t2"]
    assert stage.ground.most_noted < 4000


async def test_several_endpoints_without_workers_do_not_fill_the_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a size whose workers are gone: their rows wait in one lane, and then before those of others."""
    dead = [f"/shop/dead{number}" for number in range(5)]
    stage = Stage(tmp_path, monkeypatch, [one for one in dead for _ in range(1000)] + ["/shop/a"] * 2000)
    stage.dead.update(dead)
    async with stage.batcher():
        await stage.until(2000)
        assert sum(map(stage.published, dead)) <= QUIET_ROWS + 500
        assert all(map(stage.published, dead)), "else nobody would learn that they answer again"


async def test_hundreds_of_endpoints_without_workers_hold_up_no_row_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a gateway that names as many endpoints of a model that nobody serves. Whoever takes the job over goes
    on where it stands, though a commit has no room for all of that."""
    monkeypatch.setattr(open_piece, "_MOST_NOTED", 1000)
    dead = [f"/shop/dead-{number}" for number in range(200)]
    stage = Stage(tmp_path, monkeypatch, [dead[n // 3 % 200] if n % 3 else "/shop/a" for n in range(9000)])
    stage.dead.update(dead)
    async with stage.batcher():
        await stage.until(2000)
    async with stage.batcher() as running:
        await stage.until(3000)
        assert sum(map(stage.published, dead)) <= 3 * QUIET_ROWS
        assert 1 <= len(list((tmp_path / "batch.v1/shop/batch-1/notes").iterdir())) <= 3, "the older ones are gone"
        stage.dead.clear()
        assert (await asyncio.wait_for(running, 60)).counts.completed == 9000
    assert set(stage.ground.published.values()) == {1}
    assert stage.ground.most_noted <= 1000


async def test_endpoints_with_a_row_here_and_there_do_not_hold_all_pieces_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MOST_OPEN", 16)
    dead = [f"/shop/dead-{number}" for number in range(3)]
    places = [dead[n // 500 % 3] if n % 500 == 250 else "/shop/a" for n in range(20_000)]
    stage = Stage(tmp_path, monkeypatch, places)
    stage.dead.update(dead)
    async with stage.batcher():
        await stage.until(20_000 - 40)


async def test_many_endpoints_that_answer_are_none_of_them_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pieces would be read once more for each, and have their results in as many parts."""
    monkeypatch.setattr(window, "PATIENCE_S", 10.0)
    stage = Stage(tmp_path, monkeypatch, [f"/shop/e{number * number % 101}" for number in range(5000)])
    async with stage.batcher() as running:
        assert (await asyncio.wait_for(running, 60)).counts.completed == 5000
    assert {len(names) for names in stage.folder.parts().values()} == {1}
    assert set(stage.ground.published.values()) == {1}


async def test_a_slow_endpoint_gives_its_pace_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, monkeypatch, in_turn(9000))
    slow = iter(range(10**9))
    stage.dead.clear()
    # One in so many looks at a row is answered.
    ground_answers = stage.ground._answers
    stage.ground._answers = lambda row: None if row.endpoint == DEAD and next(slow) % 5000 else ground_answers(row)
    async with stage.batcher() as running:
        await stage.until(6000)
        assert stage.published(DEAD) < 2000
        stage.ground._answers = ground_answers
        assert (await asyncio.wait_for(running, 60)).counts.completed == 9000
    assert set(stage.ground.published.values()) == {1}


async def test_whoever_takes_such_a_job_over_sends_no_row_again_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, in_turn(9000))
    ended = None
    chance = random.Random(3)
    for death in range(200):
        if death == 8:
            stage.dead = {"/shop/a"}
        if death == 16:
            stage.dead.clear()
        async with stage.batcher() as running:
            transactions = stage.ground.transactions + chance.randrange(6)
            for _ in range(chance.randrange(1, 40)):
                done, _ = await asyncio.wait([running], timeout=0.01)
                if done or stage.ground.transactions > transactions:
                    break
            if done:
                ended = running.result()
                break
    assert ended is not None
    assert (ended.outcome, ended.counts.completed) == ("done", 9000)
    assert set(stage.ground.published.values()) == {1}
    assert [one["id"] for one in stage.output()] == [f"r{n}" for n in range(1, 9001)]


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_rows_that_were_left_behind_are_told_why_they_have_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stage = Stage(tmp_path, monkeypatch, in_turn(3000))
    async with stage.batcher() as running:
        await stage.until(2000)
    if how == "expired":
        stage.job = msgspec.structs.replace(stage.job, deadline_ms=1)
    async with stage.batcher() as running:
        if how == "cancelled":
            stage.run.cancel()
        ended = await asyncio.wait_for(running, 60)
    assert (ended.outcome, ended.counts.completed, ended.counts.failed) == (how, 2000, 1000)
    errors = stage.output("errors.jsonl")
    assert [one["id"] for one in errors] == [f"r{n + 1}" for n in range(3000) if n % 3 == 1]
    assert {one["endpoint"] for one in errors} == {DEAD}
    if how == "cancelled":
        assert {number for number in stage.ground.published if number % 3 == 1} <= stage.ground.cancelled


@pytest.mark.parametrize("order", ["file", "as-they-come"])
async def test_long_answers_of_a_piece_are_written_before_all_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Five hundred answers of a megabyte each would take half a gigabyte of a batcher."""
    monkeypatch.setattr(window, "SPILT_BYTES", 2**20)
    stage = Stage(tmp_path, monkeypatch, ["/shop/a"] * 600, order=order)
    stage.dead.clear()
    stage.answer = lambda row: json.loads(row.content)["text"] + "." * 20_000
    most = 0
    async with stage.batcher() as running:
        while not running.done():
            if stage.run._window is not None:
                most = max(most, *(piece.held_bytes for piece in stage.run._window.open.values()), 0)
            await asyncio.sleep(0)
        ended = running.result()
    assert ended.counts.completed == 600
    found = [one["value"] for one in stage.output()]
    wanted = [f"t{n}" + "." * 20_000 for n in range(600)]
    assert found == wanted if order == "file" else sorted(map(str, found)) == sorted(wanted)


async def test_who_watches_is_told_when_so_many_endpoints_answer_nothing_that_all_rows_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MOST_BEHIND", 2)
    dead = [f"/shop/dead-{n}" for n in range(4)]
    stage = Stage(tmp_path, monkeypatch, [["/shop/a", *dead][n % 5] for n in range(9000)])
    stage.dead = {*dead}
    async with stage.batcher() as running:
        async with asyncio.timeout(60):
            while not stage.told or "so all of its rows do" not in stage.told[-1].trouble:
                await asyncio.sleep(0.005)
        assert not running.done()
