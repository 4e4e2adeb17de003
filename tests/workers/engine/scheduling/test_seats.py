"""Seats and room are shared: by literal cases, and by simulation of hundreds of rows that come at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from tests.workers.engine.rows import admitted, row, rows, scheduler
from tests.workers.engine.scheduling.test_scheduler import grown, pieces

from guideway.workers.engine.scheduling.chunks import RECENT_STEPS
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.scheduler import Scheduler
from guideway.workers.engine.scheduling.seats import LEAST_RUN_TOKENS, run_tokens


@dataclass
class Served:
    """A scheduler that is driven step by step, as the engine drives it."""

    scheduler: Scheduler
    lengths: dict[Row, int] = field(default_factory=dict)
    """Tokens that each row will generate."""
    step: int = 0
    came: dict[Row, int] = field(default_factory=dict)
    began: dict[Row, int] = field(default_factory=dict)
    ended: dict[Row, int] = field(default_factory=dict)
    running: list[Row] = field(default_factory=list)
    taken_in: int = 0
    generated: int = 0
    gone: list[Row] = field(default_factory=list)
    at_seat: dict[Row, int] = field(default_factory=dict)

    def add(self, *some: Row, length: int) -> None:
        for each in some:
            self.lengths[each] = length
            self.came[each] = self.step
        self.scheduler.add(some)

    def run(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._run()

    def run_until(self, is_so: Callable[[], bool], most: int = 100_000) -> None:
        for _ in range(most):
            if is_so():
                return
            self._run()
        raise AssertionError("it does not come about")

    def _run(self) -> None:
        self.step += 1
        choice = self.scheduler.schedule(0.0)
        assert not set(choice.preempted) & set(choice.admitted)
        for each in choice.preempted:
            self.running.remove(each)
            each.cached_tokens = 0
            if each.preempted > 1 and not self.scheduler._max_kv_tokens < 2**62:
                made = len(each.token_ids) - self.at_seat[each]
                assert made >= LEAST_RUN_TOKENS, "it had come back just now"
            self.gone.append(each)
        for each in choice.admitted:
            self.running.append(each)
            self.began.setdefault(each, self.step)
            self.at_seat[each] = len(each.token_ids)
        assert set(self.running) == set(self.scheduler._running)
        assert len(self.running) <= self.scheduler._max_rows
        if len(self.running) > 1:
            assert sum(each.total_tokens + 1 for each in self.running) <= self.scheduler._max_kv_tokens
        assert self.running or not self.scheduler.waiting, "nobody runs, and somebody waits"
        self._work()

    def _work(self) -> None:
        plan = self.scheduler.plan_step()
        assert plan.decoding or plan.pieces or not self.running
        taking = [*((each, 1) for each in plan.decoding), *plan.pieces.items()]
        for each, tokens in taking:
            each.cached_tokens += tokens
            self.taken_in += tokens
            if not each.missing_tokens:
                each.token_ids.append(0)
                self.generated += 1
                if len(each.token_ids) >= self.lengths[each]:
                    self.ended[each] = self.step
                    self.running.remove(each)
                    self.scheduler.drop([each])

    def waits(self, namespace: str) -> list[int]:
        """Steps from coming to the first seat, of the rows of this namespace."""
        return [began - self.came[each] for each, began in self.began.items() if each.namespace == namespace]

    def held(self) -> str:
        return "".join(sorted(each.namespace for each in self.running))


def served(**settings: Any) -> Served:
    return Served(scheduler(**{"max_rows": 8, "max_step_tokens": 512, **settings}))


def many(namespace: str, count: int, **settings: Any) -> list[Row]:
    return [row(f"{namespace}{i}", **{"max_tokens": 2000, **settings}) for i in range(count)]


# Seats ---------------------------------------------------------------------------------------------------------------


def test_a_neighbour_of_a_hundred_long_rows_gets_a_seat_at_once() -> None:
    s = served()
    s.add(*many("a", 100), length=900)
    s.run(50)
    s.add(row("b1"), length=5)
    s.run()
    assert s.held() == "aaaaaaab"
    assert s.waits("b") == [1]


def test_seats_are_shared_equally_where_rows_of_all_wait() -> None:
    s = served(max_rows=9)
    s.add(*many("a", 50), length=900)
    s.run(5)
    s.add(*many("b", 50), length=900)
    s.run(2)
    assert Counter(s.held()) in ({"a": 5, "b": 4}, {"a": 4, "b": 5})
    s.add(*many("c", 2), length=900)
    s.run(2)
    assert Counter(s.held()) in ({"a": 4, "b": 3, "c": 2}, {"a": 3, "b": 4, "c": 2})
    moved = len(s.gone)
    s.run(300)
    assert len(s.gone) == moved, "and there it stays"


def test_who_has_fewer_rows_than_its_share_takes_no_more_than_it_needs() -> None:
    s = served()
    s.add(*many("a", 50), length=900)
    s.run(5)
    s.add(*many("b", 2), length=900)
    s.run(100)
    assert s.held() == "aaaaaabb"
    assert len(s.gone) == 2


def test_the_row_that_is_taken_in_again_at_the_least_cost_goes() -> None:
    s = served(max_rows=3)
    s.add(row("a1", tokens=100, max_tokens=2000), row("a2", tokens=20, max_tokens=2000), length=900)
    s.run()
    s.add(row("a3", tokens=60, max_tokens=2000), length=900)
    s.run(10)
    s.add(row("b1"), length=5)
    s.run()
    assert [each.id for each in s.gone] == ["a2"]


def test_a_lone_tenant_loses_nothing() -> None:
    s = served()
    s.add(*many("a", 40), length=100)
    s.run_until(lambda: s.scheduler.waiting == 0)
    assert not s.gone
    seats = s.scheduler._max_rows
    assert s.step <= 40 / seats * 103


def test_one_question_after_the_other_makes_few_rows_go_and_waits_for_nothing() -> None:
    """The seat is kept for a moment; when nobody asks any more, it is used again."""
    s = served()
    s.add(*many("a", 200, tokens=300), length=400)
    s.run(60)
    for i in range(50):
        s.add(asked := row(f"b{i}"), length=3)
        s.run_until(lambda asked=asked: asked in s.ended)  # type: ignore[misc]
        s.run(10)
    assert max(s.waits("b")) == 1
    assert len(s.gone) <= 2
    s.run(40)
    assert s.held() == "aaaaaaaa"


def test_a_row_that_came_back_stays_for_a_while() -> None:
    s = served(max_rows=2)
    s.add(*many("a", 10, tokens=100), length=900)
    s.run(10)
    names = "bcdefgh"
    for step in range(600):
        if step % 7 == 0:
            s.add(row(f"{names[step // 7 % len(names)]}{step}"), length=4)
        s.run()
    # Each of the tenants waits a little; `Served` looks at every row that goes.
    assert max(max(s.waits(name)) for name in names) <= 2 * run_tokens(row("a", tokens=1000)) + 200
    s.run_until(lambda: len(s.ended) == len(s.lengths))


def test_what_a_row_costs_to_take_in_again_it_stays_for() -> None:
    assert [run_tokens(row("a", tokens=n)) for n in (10, 512, 1600, 32_000)] == [32, 32, 100, 512]


# Lanes ---------------------------------------------------------------------------------------------------------------


def test_the_interactive_lane_does_not_wait_for_a_backlog_of_the_batch_lane() -> None:
    s = served()
    s.add(*many("a", 100, lane="batch"), length=900)
    s.run(20)
    s.add(*(row(f"{name}{i}") for name in "ab" for i in range(5)), length=100)
    s.run()
    lanes = Counter(each.lane for each in s.running)
    assert lanes == {"interactive": 7, "batch": 1}, "one seat in eight stays"
    assert max(s.waits("b")) == 1
    s.run_until(lambda: all(each in s.ended for each in s.lengths if each.lane == "interactive"), most=400)
    s.run(40)
    assert Counter(each.lane for each in s.running) == {"batch": 8}


@pytest.mark.parametrize("seats", [1, 2, 8, 16])
def test_the_batch_lane_gets_on_whatever_comes(seats: int) -> None:
    s = served(max_rows=seats)
    s.add(*many("a", 6, lane="batch"), length=200)
    ended = 0
    while ended < 6:
        if s.scheduler.waiting < 30:
            s.add(*(row(f"b{s.step}x{i}") for i in range(20)), length=20)
        s.run()
        ended = sum(each.lane == "batch" for each in s.ended)
        assert s.step < 30_000, "it starves"


def test_a_batch_row_makes_no_interactive_row_go() -> None:
    s = served()
    s.add(*many("a", 100), length=900)
    s.run(20)
    s.add(*many("b", 5, lane="batch"), length=10)
    s.run(100)
    assert s.held() == "aaaaaaaa"
    assert not s.gone


# Room ----------------------------------------------------------------------------------------------------------------


def test_a_long_row_that_would_take_the_others_room_is_overtaken_for_a_time_and_comes() -> None:
    s = served(max_rows=64, max_kv_tokens=8000, max_step_tokens=4000)

    def add_some() -> None:
        """They end one after the other, so that there is never room for a long one at once."""
        for length in range(60, 140, 2):
            s.add(*many("b", 1, tokens=100), length=length)

    add_some()
    s.run(3)
    s.add(long := row("a1", tokens=5000, max_tokens=2000), length=50)
    beside = 0
    while long not in s.began:
        if s.scheduler.waiting < 30:
            add_some()
        s.run()
        beside = max(beside, len(s.running))
        assert s.step < 1500, "it starves"
    assert beside >= 30
    assert s.began[long] - s.came[long] >= 256


def test_rows_that_keep_others_from_the_room_have_it_for_half_of_the_time() -> None:
    """A tenant with one long row after the other, and one with many short ones: without a share, 3 of these ran."""
    s = served(max_rows=64, max_kv_tokens=8000, max_step_tokens=4000)
    counts: list[int] = []
    for _ in range(8000):
        if not any(each.namespace == "a" for each in (*s.running, *s.scheduler._waiting)):
            s.add(row(f"a{s.step}", tokens=5000, max_tokens=2000), length=600)
        if s.scheduler.waiting < 30:
            s.add(*many("b", 40, tokens=100), length=100)
        s.run()
        counts.append(s.held().count("b"))
    alone = sum(count >= 30 for count in counts) / len(counts)
    assert alone > 0.4
    long = [each for each in s.ended if each.namespace == "a"]
    assert len(long) >= 4, "and they come to their ends"


def test_a_row_that_grows_beyond_its_share_goes_and_not_those_whom_it_would_push_out() -> None:
    s = served(max_kv_tokens=1600)
    s.add(grows := row("a1", max_tokens=2000), length=1200)
    s.run(2)
    s.add(*many("b", 7, tokens=40), length=150)
    grown(grows, by=785)
    s.run(140)
    assert {each.id for each in s.gone} == {"a1"}
    s.run_until(lambda: grows in s.ended)


def test_a_lone_tenant_may_have_all_the_room() -> None:
    s = served(max_kv_tokens=4000)
    s.add(row("a1", tokens=3800, max_tokens=2000), *many("a", 5), length=30)
    s.run()
    assert len(s.running) == 4
    assert s.running[0].id == "a1"
    assert not s.gone
    s.run_until(lambda: len(s.ended) == 6)
    assert not s.gone


def test_who_has_nothing_gets_in_beside_one_that_has_all_the_room() -> None:
    s = served(max_kv_tokens=4000, max_step_tokens=1000)
    s.add(row("a1", tokens=3900, max_tokens=2000), length=400)
    s.run(50)
    s.add(row("b1"), length=10)
    s.run()
    assert s.held() == "b"
    s.run_until(lambda: len(s.ended) == 2)
    assert len(s.gone) == 1


def test_a_long_row_makes_no_short_rows_of_others_go() -> None:
    s = served(max_rows=64, max_kv_tokens=8000, max_step_tokens=4000)
    s.add(*many("b", 60, tokens=80), length=40)
    s.run(5)
    s.add(row("a1", tokens=5000, max_tokens=2000), length=50)
    s.run(100)
    assert not s.gone


def test_rows_beyond_their_share_of_the_room_go_for_a_long_one_within_its_own() -> None:
    s = served(max_rows=64, max_kv_tokens=8000, max_step_tokens=4000)
    s.add(*many("b", 60, tokens=80), length=40)
    s.run(5)
    s.add(long := row("a1", tokens=2000, max_tokens=2000), length=50)
    s.run(2)
    assert long in s.began
    assert 0 < len(s.gone) < 20


# Prompts -------------------------------------------------------------------------------------------------------------


def test_a_prompt_does_not_wait_for_another_tenants_many_long_ones() -> None:
    """In the order of their coming, the eight oldest would have had all of the step."""
    b = scheduler(max_rows=16, max_step_tokens=512)
    b.add(many("a", 15, tokens=3000))
    b.add([row("b1", tokens=200)])
    b.schedule(0.0)
    planned = pieces(b.plan_step())
    assert planned[0] == ("b1", 200)
    assert planned[1][0] == "a0"


def test_long_prompts_of_two_tenants_get_on_alike() -> None:
    s = served(max_rows=16, max_step_tokens=100)
    s.add(*many("a", 15, tokens=3000), length=2)
    s.add(late := row("b1", tokens=900), length=2)
    s.run_until(lambda: late in s.ended)
    assert s.step <= 2 * 900 / 100 + 4


def test_rows_that_decode_wait_less_for_the_prompts_of_others() -> None:
    for beside_others, beside in ((4, 128), (1, 511)):
        b = scheduler(max_rows=4, max_step_tokens=512, beside_others=beside_others)
        expect_prompts_beside_others(b, beside)


def expect_prompts_beside_others(b: Scheduler, tokens: int) -> None:
    b.add(first := rows("b1"))
    b.schedule(0.0)
    b.plan_step()
    first[0].cached_tokens = 10
    first[0].token_ids.append(0)
    b.add([row("a1", tokens=2000)])
    b.schedule(0.0)
    assert pieces(b.plan_step()) == [("a1", tokens)]
    b.drop(first)
    assert pieces(b.plan_step()) == [("a1", 512)]


def test_steps_are_short_while_somebody_is_expected_beside_a_backlog() -> None:
    b = scheduler(max_rows=2, max_step_tokens=512, beside_others=4)
    b.add(row(f"a{i}", tokens=3000) for i in range(9))
    b.schedule(0.0)
    assert pieces(b.plan_step()) == [("a0", 256), ("a1", 256)], "whoever is alone has all of it"
    b.add(visitor := [row("b0", tokens=10)])
    b.schedule(0.0)
    short = sum(b.plan_step().pieces.values())
    assert short <= 64
    b.drop(visitor)
    b.schedule(0.0)
    for _ in range(RECENT_STEPS):
        assert sum(b.plan_step().pieces.values()) <= 64
    assert sum(b.plan_step().pieces.values()) == 512


def test_on_a_gpu_steps_are_whole_whoever_is_expected() -> None:
    b = scheduler(max_rows=2, max_step_tokens=512, beside_others=1)
    b.add([*(row(f"a{i}", tokens=3000) for i in range(9)), row("b0", tokens=10)])
    b.schedule(0.0)
    assert sum(b.plan_step().pieces.values()) > 256


def test_steps_are_whole_where_everybody_has_a_backlog() -> None:
    b = scheduler(max_rows=2, max_step_tokens=512, beside_others=4)
    b.add(row(f"{name}{i}", tokens=3000) for i in range(9) for name in "ab")
    b.schedule(0.0)
    assert sum(b.plan_step().pieces.values()) == 512


# Simulation ----------------------------------------------------------------------------------------------------------

Lane = Literal["interactive", "batch"]


def random_rows(chance: random.Random, count: int, longest: int) -> Iterable[tuple[int, Row, int]]:
    """(step at which it comes, the row, tokens that it will generate)"""
    step = 0
    for i in range(count):
        step += chance.choice([0, 0, 0, 0, 1, 3, 20])
        name = chance.choices("abcd", weights=[20, 4, 1, 1])[0]
        lane: Lane = "batch" if chance.random() < 0.3 else "interactive"
        tokens = chance.choice([2, 10, 40, 300, longest])
        length = chance.choice([1, 3, 30, 200])
        yield step, row(f"{name}{i}", tokens=tokens, max_tokens=length, lane=lane), length


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_every_row_ends_and_little_is_done_twice(seed: int) -> None:
    chance = random.Random(seed)
    seats = chance.choice([1, 2, 5, 8, 32])
    room = chance.choice([2**62, 700, 2000, 8000])
    s = served(max_rows=seats, max_step_tokens=chance.choice([16, 100, 512]), max_kv_tokens=room)
    due = list(random_rows(chance, 250, longest=450))
    while due or len(s.ended) < 250:
        while due and due[0][0] <= s.step:
            _, each, length = due.pop(0)
            s.add(each, length=length)
        if s.running or s.scheduler.waiting:
            s.run()
        else:
            s.step += 1
        assert s.step < 200_000, "it does not come to an end"
    assert s.scheduler.running == s.scheduler.waiting == 0
    assert not s.scheduler._kept._given
    assert not s.scheduler._shares._held_back
    once = sum(each.prompt_tokens + len(each.token_ids) - 1 for each in s.lengths)
    if room == 2**62:
        assert s.taken_in <= 2 * once


@pytest.mark.parametrize("seed", range(6))
def test_the_waiting_time_of_the_innocent_is_bounded(seed: int) -> None:
    """Rows of up to 900 tokens in any number beside a tenant who asks now and then."""
    chance = random.Random(seed)
    seats = chance.choice([4, 8, 16])
    s = served(max_rows=seats)
    for step in range(3000):
        if s.scheduler.waiting < 60:
            s.add(*many(chance.choice("ac"), 50, tokens=chance.choice([10, 200])), length=chance.choice([50, 900]))
        # A quarter of its share, so that its own rows seldom wait for each other.
        if chance.random() < 0.003 * seats:
            s.add(row(f"b{step}"), length=chance.choice([1, 5, 40]))
        s.run()
    waits = sorted(s.waits("b"))
    assert len(waits) > 20
    assert waits[len(waits) // 2] <= 1
    assert waits[int(len(waits) * 0.95)] <= 64
    assert waits[-1] <= 120


def test_admission_is_as_before_for_one_tenant_and_lane() -> None:
    b = scheduler(max_rows=3)
    b.add(rows("a1 a2 a3 a4 a5"))
    assert admitted(b) == "a1 a2 a3"
    assert admitted(b) == ""
