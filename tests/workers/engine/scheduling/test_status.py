"""What a row is doing is stated, wherever it is, and our own bugs are caught. No model and no tensor."""

from __future__ import annotations

import random

import pytest
from tests.workers.engine.rows import row, rows, scheduler

from guideway.workers.engine.scheduling.fair_queue import FairQueue
from guideway.workers.engine.scheduling.row import Row, RowStatus

WAITING, RUNNING, ENDED = RowStatus


def test_a_row_waits_runs_waits_again_and_ends() -> None:
    b = scheduler(max_kv_tokens=100)
    first, second = rows("a1 a2", max_tokens=200)
    assert [first.status, second.status] == [WAITING, WAITING]
    b.add([first, second])
    assert [first.status, second.status] == [WAITING, WAITING]
    b.schedule(0.0)
    assert [first.status, second.status] == [RUNNING, RUNNING]
    first.token_ids += [0] * 80
    assert b.schedule(0.0).preempted == [second]
    assert [first.status, second.status] == [RUNNING, WAITING]
    b.drop([first])
    b.schedule(0.0)
    assert [first.status, second.status] == [ENDED, RUNNING]
    b.drop([second, first])
    assert [first.status, second.status] == [ENDED, ENDED]


def test_rows_that_wait_expire_or_never_came_have_ended() -> None:
    b = scheduler(max_rows=1)
    late, waiting, stranger = row("a1", deadline_ms=5_000), row("a2"), row("z1")
    b.add([late, waiting])
    b.drop([stranger])
    assert b.schedule(6.0).expired == [late]
    b.drop([waiting])
    assert {each.status for each in (late, waiting, stranger)} == {ENDED}
    assert (b.running, b.waiting) == (0, 0)


def test_the_status_is_where_the_row_is_whatever_comes_and_goes() -> None:
    chance = random.Random(3)
    b = scheduler(max_rows=4, max_kv_tokens=400)
    known: list[Row] = []
    for i in range(300):
        known.append(row(f"{chance.choice('abc')}{i}", lane=chance.choice(["interactive", "batch"]), max_tokens=500))
        b.add(known[-1:])
        b.schedule(0.0, ready={each for each in known if chance.random() < 0.7})
        for each in [*b._running]:
            each.token_ids += [0] * chance.randint(0, 20)
        b.drop(chance.sample(known, k=min(len(known), chance.choice([0, 1, 2]))))
        assert {*b._running} == {each for each in known if each.status is RUNNING}
        assert {*b._waiting} == {each for each in known if each.status is WAITING}


def test_what_only_a_bug_does_is_caught() -> None:
    queue = FairQueue()
    one, other = rows("a1 a2")
    queue.add(one)
    queue.add(other)
    with pytest.raises(AssertionError):
        queue.put_back(one)
    queue.take(one)
    for wrong in (queue.take, queue.add):
        with pytest.raises(AssertionError):
            wrong(one)
    queue.forget(one)
    for wrong in (queue.take, queue.add, queue.put_back):
        with pytest.raises(AssertionError):
            wrong(one)
