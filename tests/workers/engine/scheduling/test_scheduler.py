"""Admission, pieces of prompts, preemption and deadlines, in literal times. No model and no tensor."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from typing import Any

from tests.workers.engine.rows import admitted, row, rows, scheduler, with_prefixes

from guideway.workers.engine.scheduling.chunks import StepPlan, padded_groups, planned, share_out
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.scheduler import Scheduler, SchedulerOutput


def test_rows_are_admitted_in_order_while_there_is_room() -> None:
    b = scheduler(max_rows=3)
    b.add(rows("a1 a2 a3 a4 a5"))
    assert admitted(b) == "a1 a2 a3"
    assert admitted(b) == ""
    assert (b.running, b.waiting) == (3, 2)


def test_an_ended_row_makes_room() -> None:
    b = scheduler(max_rows=2)
    all_rows = rows("a1 a2 a3")
    b.add(all_rows)
    assert admitted(b) == "a1 a2"
    b.drop(all_rows[:1])
    assert admitted(b) == "a3"
    assert (b.running, b.waiting) == (2, 0)


def pieces(plan: StepPlan) -> list[tuple[str, int]]:
    return [(row.id, tokens) for row, tokens in plan.pieces.items()]


def step(b: Scheduler) -> tuple[str, list[tuple[str, int]]]:
    """Choose, plan, and take in what is planned; a row that has it all gets a token."""
    b.schedule(0.0)
    plan = b.plan_step()
    for one in plan.decoding:
        one.cached_tokens += 1
        one.token_ids.append(0)
    for one, tokens in plan.pieces.items():
        one.cached_tokens += tokens
        if not one.missing_tokens:
            one.token_ids.append(0)
    return " ".join(one.id for one in plan.decoding), pieces(plan)


def test_prompts_that_fit_are_taken_in_side_by_side() -> None:
    b = scheduler(max_step_tokens=90)
    b.add([row("a1", tokens=10), row("a2", tokens=30), row("a3", tokens=20)])
    assert step(b) == ("", [("a1", 10), ("a2", 30), ("a3", 20)])
    assert step(b) == ("a1 a2 a3", [])


def test_a_long_prompt_is_taken_in_by_pieces_while_others_decode() -> None:
    b = scheduler(max_step_tokens=100)
    b.add([row("a1"), row("a2", tokens=250)])
    assert step(b) == ("", [("a1", 10), ("a2", 90)])
    assert step(b) == ("a1", [("a2", 99)])
    assert step(b) == ("a1", [("a2", 61)])
    assert step(b) == ("a1 a2", [])


def test_short_prompts_do_not_wait_for_a_long_one_that_came_before() -> None:
    b = scheduler(max_step_tokens=100)
    b.add([row("a1", tokens=500)])
    assert step(b) == ("", [("a1", 100)])
    b.add([row("a2", tokens=20), row("a3", tokens=25)])
    assert step(b) == ("", [("a2", 20), ("a3", 25), ("a1", 55)])
    assert step(b) == ("a2 a3", [("a1", 98)])


def decodes(name: str, **settings: Any) -> Row:
    """A row that has taken in its prompt."""
    one = row(name, **settings)
    one.cached_tokens, one.token_ids = one.prompt_tokens, [0]
    return one


def plan_of(*running: Row, **settings: Any) -> list[tuple[str, int]]:
    others: dict[str, Any] = {"step_tokens": 512, "beside_others": 4, "expected": False, **settings}
    return pieces(planned(running, others.pop("at_once", []), 1, **others))


def test_a_long_prompt_lets_interactive_rows_of_others_wait_half_as_long_again_at_most() -> None:
    """A step costs as twenty tokens, and each token as one: 36 with 16 rows, so 18 more."""
    long = row("b1", tokens=20_000)
    sixteen = [decodes(f"a{i}") for i in range(16)]
    assert plan_of(*sixteen, long) == [("b1", 18)]
    assert plan_of(sixteen[0], long) == [("b1", 10)]
    long.cached_tokens = 2400
    assert plan_of(*sixteen, long) == [("b1", 4)], "each token costs four times as much"
    long.cached_tokens = 19_998
    assert plan_of(sixteen[0], long) == [("b1", 1)], "it always gets on"


def test_a_long_prompt_takes_whole_steps_where_it_lets_nobody_wait() -> None:
    long = row("b1", tokens=20_000)
    assert plan_of(decodes("b2"), long) == [("b1", 511)], "of its own namespace"
    assert plan_of(decodes("a1", lane="batch"), long) == [("b1", 128)], "of the batch lane"
    assert plan_of(decodes("a1"), long, beside_others=1) == [("b1", 511)], "on a device"
    assert plan_of(row("a1", tokens=30_000), long) != []
    assert plan_of(decodes("a1"), row("b1", tokens=2000)) == [("b1", 128)], "four steps are not long"
    known = row("b1", tokens=20_000)
    known.seated_tokens = known.cached_tokens = 18_500
    assert plan_of(decodes("a1"), known) == [("b1", 128)], "its beginning was known"


def test_short_prompts_come_in_beside_a_long_one_and_long_ones_of_several_take_turns() -> None:
    a = decodes("a1")
    long, short = row("b1", tokens=20_000), row("c1", tokens=50)
    assert plan_of(a, long, short) == [("c1", 50), ("b1", 10)]
    assert plan_of(a, long, short, at_once=[long, short]) == [("c1", 50), ("b1", 10)]
    first = [plan_of(a, long, row("d1", tokens=20_000), step_tokens=512)[0][0]]
    assert first in (["b1"], ["d1"])
    b = scheduler(max_step_tokens=100, max_rows=4)
    b.add([row("a1", max_tokens=500), row("b1", tokens=2000), row("d1", tokens=2000)])
    seen = [step(b)[1] for _ in range(40)]
    taken = Counter(name for pieces in seen[1:] for name, _ in pieces)
    assert abs(taken["b1"] - taken["d1"]) <= 1
    assert all(sum(tokens for _, tokens in pieces) <= 10 for pieces in seen[1:])


def test_long_prompts_share_a_step_only_where_each_gets_a_piece_worth_its_while() -> None:
    b = scheduler(max_step_tokens=128)
    b.add([row("a1", tokens=200), row("a2", tokens=300), row("a3", tokens=300)])
    assert step(b) == ("", [("a1", 64), ("a2", 64)])
    b = scheduler(max_step_tokens=127)
    b.add([row("a1", tokens=200), row("a2", tokens=300)])
    assert [step(b) for _ in range(3)] == [("", [("a1", 127)]), ("", [("a1", 73)]), ("a1", [("a2", 126)])]


def test_some_prompt_gets_on_however_many_decode() -> None:
    b = scheduler(max_step_tokens=2)
    b.add(rows("a1 a2 a3", tokens=2))
    assert [step(b) for _ in range(4)] == [
        ("", [("a1", 2)]),
        ("a1", [("a2", 1)]),
        ("a1 a2", [("a3", 1)]),
        ("a1 a2 a3", []),
    ]


def test_whatever_is_shared_out_keeps_the_budget_and_gets_on() -> None:
    chance = random.Random(2)
    for _ in range(500):
        names = chance.choice(["a", "ab", "abc"])
        entering = [
            row(f"{chance.choice(names)}{i}", tokens=chance.choice([2, 3, 20, 70, 500]))
            for i in range(chance.randint(1, 9))
        ]
        budget = chance.choice([1, 2, 7, 64, 200, 512])
        shared = share_out(entering, budget)
        assert sum(shared.values()) <= budget
        assert all(0 < tokens <= each.missing_tokens for each, tokens in shared.items())
        assert entering[0] in shared
        assert sum(shared.values()) == budget or sum(shared.values()) > budget - 64 or len(shared) == len(entering)


def test_rows_side_by_side_are_padded_little_and_all_of_them_run() -> None:
    chance = random.Random(5)
    for _ in range(200):
        taken = []
        for i in range(chance.randint(0, 30)):
            taken.append((row(f"a{i}"), chance.choice([1, 2, 3, 20, 70, 500])))
            taken[-1][0].cached_tokens = chance.choice([0, 5, 300, 3000, 20_000])
        groups = padded_groups(taken)
        assert sorted(each.id for group in groups for each, _ in group) == sorted(each.id for each, _ in taken)
        for group in groups:
            assert len(group) * max(tokens for _, tokens in group) <= 2 * sum(tokens for _, tokens in group)
            attended = [each.cached_tokens + tokens for each, tokens in group]
            assert len(group) * max(attended) <= 2 * sum(attended) + 4096
    alike = [(row(f"a{i}"), 1) for i in range(16)]
    assert len(padded_groups(alike)) == 1


def test_rows_wait_while_another_takes_in_the_head_that_they_share() -> None:
    known: set[bytes] = set()
    b = Scheduler(max_rows=9, max_step_tokens=50, prefix_cache=known)
    first, second, other = (with_prefixes(row(f"a{i}", tokens=100), shared=60) for i in range(3))
    b.add([first, second, other, row("b1", tokens=100), with_prefixes(row("b2"), another=9)])
    assert admitted(b) == "a0 b1 b2"
    first.cached_tokens = 59
    assert admitted(b) == ""
    first.cached_tokens = 60
    known.add(b"shared")
    assert admitted(b) == "a1 a2"


def test_whoever_waits_for_a_head_takes_it_in_where_it_does_not_come() -> None:
    """The one that took it in has gone, or what it left has been let go."""
    b = Scheduler(max_rows=9, max_step_tokens=50, prefix_cache=())
    first, second, third = (with_prefixes(row(f"a{i}", tokens=100), shared=60) for i in range(3))
    b.add([first, second, third])
    assert admitted(b) == "a0"
    b.drop([first])
    assert admitted(b) == "a1"
    second.cached_tokens = 60
    assert admitted(b) == "a2"


def grown(*some: Row, by: int) -> None:
    for each in some:
        each.token_ids += [0] * by
        each.cached_tokens = each.total_tokens - 1


def test_rows_are_admitted_where_they_fit_with_room_to_grow() -> None:
    b = scheduler(max_kv_tokens=200)
    b.add([row("a1", tokens=17), row("a2", tokens=17), row("a3", tokens=17), row("a4", tokens=17)])
    assert admitted(b) == "a1 a2 a3 a4"
    b = scheduler(max_kv_tokens=170)
    b.add([row("a1", tokens=17), row("a2", tokens=17), row("a3", tokens=17), row("b4", tokens=17, max_tokens=4)])
    assert admitted(b) == "a1 b4 a2"
    b = scheduler(max_kv_tokens=40)
    b.add([row("a1", tokens=18, max_tokens=2), row("a2", tokens=18, max_tokens=2), row("a3", tokens=2, max_tokens=1)])
    assert admitted(b) == "a1 a2"


def test_a_row_that_does_not_fit_is_not_overtaken_and_comes_when_it_is_alone() -> None:
    b = scheduler(max_kv_tokens=100)
    first, long, last = row("a1"), row("a2", tokens=90), row("a3")
    b.add([first, long, last])
    assert admitted(b) == "a1"
    assert admitted(b) == ""
    b.drop([first])
    assert admitted(b) == "a2"
    b.drop([long])
    assert admitted(b) == "a3"


def test_a_long_row_takes_no_more_room_than_it_holds() -> None:
    """As rows times the longest, 24 of these would run."""
    b = scheduler(max_rows=300, max_kv_tokens=800_000, page_tokens=16)
    b.add([row("a0", tokens=32_000), *(row(f"a{i}", tokens=500) for i in range(1, 257))])
    assert len(b.schedule(0.0).admitted) == 257


def test_room_is_counted_in_whole_pages() -> None:
    b = scheduler(max_kv_tokens=64, page_tokens=16)
    b.add([row("a1", tokens=15, max_tokens=1), row("a2", tokens=16, max_tokens=1), row("a3", tokens=14, max_tokens=2)])
    assert admitted(b) == "a1 a2 a3"
    b.add([row("a4", tokens=1, max_tokens=1)])
    assert admitted(b) == ""


def test_where_rows_outgrow_the_room_the_last_of_the_namespace_that_holds_most_goes() -> None:
    b = scheduler(max_rows=9, max_kv_tokens=200)
    a1, a2, b1, b2 = waiting = [row("a1"), row("a2"), row("b1"), row("b2", tokens=11)]
    b.add(waiting)
    assert admitted(b) == "a1 b1 a2 b2"
    grown(*waiting, by=38)
    assert b.schedule(0.0).preempted == []
    grown(a1, by=4)
    assert b.schedule(0.0).preempted == [a2]
    assert (b.running, b.waiting) == (3, 1)
    assert b.schedule(0.0) == SchedulerOutput([], [], [])
    grown(b1, b2, by=25)
    assert b.schedule(0.0).preempted == [b2]
    b.drop([a1, b1])
    assert b.schedule(0.0).admitted == [a2, b2]
    assert len(a2.token_ids) == 38


def test_rows_of_the_batch_lane_go_first_and_the_one_that_has_run_longest_never() -> None:
    b = scheduler(max_kv_tokens=150)
    a1, a2, a3 = row("a1", max_tokens=1000), row("a2"), row("a3", lane="batch")
    for each in (a1, a2, a3):
        b.add([each])
        b.schedule(0.0)
    assert b.running == 3
    grown(a1, by=120)
    assert b.schedule(0.0).preempted == [a3]
    grown(a1, by=10)
    assert b.schedule(0.0).preempted == [a2]
    grown(a1, by=500)
    assert b.schedule(0.0).preempted == []


def test_tokens_that_came_at_once_let_others_wait_no_longer_than_prompts_do() -> None:
    b = scheduler(max_rows=8, max_step_tokens=80)
    many, other = rows("a1 a2 a3 a4 a5 a6"), row("b1")
    b.add([*many, other])
    assert dict(step(b)[1]) == {one.id: 10 for one in (*many, other)}
    for one in many:
        one.token_ids += [0] * 40
    # 80 tokens, a quarter of them beside rows of others, and one for each row in any case
    assert step(b) == ("b1", [("a1", 21), *((f"a{i}", 1) for i in range(2, 7))])
    b.add([row("c1", tokens=60)])
    taken = dict(step(b)[1])
    assert taken == {"a1": 11, **{f"a{i}": 1 for i in range(2, 7)}, "c1": 10}
    for _ in range(40):
        step(b)
    assert all(one.decodes for one in many), "nobody waits for ever"


def test_a_preempted_row_comes_before_the_others_of_its_namespace() -> None:
    b = scheduler(max_kv_tokens=200)
    first, second, third = row("a1", max_tokens=200), row("a2"), row("a3")
    b.add([first, second, third])
    assert admitted(b) == "a1 a2 a3"
    b.add(rows("a4"))
    grown(first, by=185)
    assert b.schedule(0.0).preempted == [third, second]
    b.drop([first])
    assert admitted(b) == "a2 a3 a4"


def test_rows_past_their_deadline_are_given_back_and_not_admitted() -> None:
    def some() -> list[Row]:
        return [row("a1", deadline_ms=5_000), row("a2", deadline_ms=5_000), row("a3", deadline_ms=5_001)]

    b = scheduler(max_rows=2)
    running, *others = some()
    b.add([running])
    assert admitted(b, now=4.0) == "a1"
    b.add(others)
    assert b.schedule(5.0).expired == []
    b = scheduler(max_rows=2)
    running, late, in_time = some()
    b.add([running])
    b.schedule(4.0)
    b.add([late, in_time])
    choice = b.schedule(5.001)
    assert choice.expired == [running, late]
    assert choice.admitted == [in_time]
    assert (b.running, b.waiting) == (1, 0)


def test_a_dropped_row_does_not_come() -> None:
    b = scheduler(max_rows=1)
    waiting = rows("a1 a2 b1")
    b.add(waiting)
    b.drop(waiting[1:])
    b.drop(rows("z1"))
    assert admitted(b) == "a1"
    assert b.waiting == 0
    b.drop(waiting[:1])
    assert b.running == 0


def test_every_row_runs_once_whatever_comes_and_goes() -> None:
    chance = random.Random(1)
    b = scheduler(max_rows=5, max_step_tokens=60)
    all_rows = [row(f"{chance.choice('abc')}{i}", tokens=chance.randint(2, 80)) for i in range(200)]
    unsent = list(all_rows)
    running: list[Row] = []
    seen: list[Row] = []
    while unsent or b.waiting or b.running:
        b.add([unsent.pop() for _ in range(min(len(unsent), chance.randint(0, 4)))])
        choice = b.schedule(0.0)
        assert b.running <= 5
        seen += [r for r in choice.admitted if r not in seen]
        running = [r for r in running if r not in choice.preempted] + choice.admitted
        assert len(running) == b.running
        ended = [r for r in running if chance.random() < 0.3]
        running = [r for r in running if r not in ended]
        b.drop(ended)
    assert sorted(r.id for r in seen) == sorted(r.id for r in all_rows)


def test_it_touches_no_tensor() -> None:
    module = "guideway.workers.engine.scheduling.scheduler"
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
