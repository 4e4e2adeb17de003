"""Whose turn it is: fairness between namespaces by tokens, and lanes."""

from __future__ import annotations

from tests.workers.engine.rows import admitted, row, rows, scheduler, with_prefixes

from guideway.workers.engine.scheduling.scheduler import Scheduler


def test_namespaces_take_turns() -> None:
    b = scheduler(max_rows=6)
    b.add(rows("a1 a2 a3 a4 b1 c1 c2"))
    assert admitted(b) == "a1 b1 c1 a2 c2 a3"


def test_the_turn_goes_on_where_it_stopped() -> None:
    b = scheduler(max_rows=1)
    waiting = rows("a1 a2 b1 b2")
    b.add(waiting)
    order = []
    for _ in range(4):
        (chosen,) = b.schedule(0.0).admitted
        order.append(chosen.id)
        b.drop([chosen])
    assert order == ["a1", "b1", "a2", "b2"]


def served(b: Scheduler, cost: dict[str, int], count: int) -> str:
    """The namespaces of `count` rows that run one after the other, each generating as many tokens as its costs."""
    order = ""
    for i in range(count):
        b.add([row(f"{name}{i}", max_tokens=1000) for name in cost])
        (chosen,) = b.schedule(0.0).admitted
        order += chosen.namespace
        chosen.cached_tokens = chosen.total_tokens
        for _ in range(cost[chosen.namespace]):
            chosen.token_ids.append(0)
            b.plan_step()
            chosen.cached_tokens += 1
        b.drop([chosen])
    return order


def test_namespaces_have_equal_shares_of_tokens_and_not_of_rows() -> None:
    order = served(scheduler(max_rows=1), {"a": 90, "b": 10, "c": 40}, 85)
    tokens = {name: order.count(name) * (10 + cost) for name, cost in (("a", 90), ("b", 10), ("c", 40))}
    assert max(tokens.values()) - min(tokens.values()) <= 100
    assert order.startswith("abcbbcbba")


def test_a_namespace_that_was_away_begins_level() -> None:
    b = scheduler(max_rows=1)
    served(b, {"a": 90}, 9)
    assert served(b, {"a": 10, "z": 10}, 6) == "azazaz"


def test_a_known_head_and_what_is_taken_in_again_cost_nothing() -> None:
    b = scheduler(max_rows=1, prefix_cache={b"h"})
    shared, again, plain = with_prefixes(row("a1", tokens=100), h=95), row("b1", tokens=100), row("c1", tokens=20)
    again.token_ids.append(0)
    b.add([plain, shared, again, row("a2"), row("b2"), row("c2")])
    order = []
    for _ in range(6):
        (chosen,) = b.schedule(0.0).admitted
        order.append(chosen.id)
        b.drop([chosen])
    assert order == ["c1", "a1", "b1", "b2", "a2", "c2"]


def test_the_interactive_lane_goes_first_and_the_batch_lane_gets_on() -> None:
    b = scheduler(max_rows=1)
    b.add([row(f"a{i}", lane="batch") for i in range(4)])
    order = admitted(b)[0]
    (running,) = b._running
    b.add([row(f"i{i}") for i in range(17)])
    while b.waiting:
        b.drop([running])
        (running,) = b.schedule(0.0).admitted
        order += running.id[0]
    assert order == "a" + "iiiiiiia" * 2 + "iiia"


def test_a_long_prompt_gets_on_beside_shorter_ones_that_never_end() -> None:
    b = scheduler(max_rows=16, max_step_tokens=512)
    short, long = [row(f"a{number}", tokens=2000) for number in range(14)], row("b1", tokens=8000)
    b.add(short)
    for step in range(500):
        if step == 50:
            b.add([long])
        b.schedule(0.0)
        plan = b.plan_step()
        for one in plan.decoding:
            one.cached_tokens += 1
            one.token_ids.append(0)
        for one, tokens in plan.pieces.items():
            one.cached_tokens += tokens
            if not one.missing_tokens:
                one.token_ids.append(0)
        for place, one in enumerate(short):
            if len(one.token_ids) >= 45:
                b.drop([one])
                short[place] = row(f"a{step}-{place}", tokens=2000)
                b.add([short[place]])
    assert long.cached_tokens > 450 * 5


def test_short_prompts_do_not_wait_for_the_instruction_that_a_long_one_of_their_endpoint_takes_in() -> None:
    cache: set[bytes] = set()
    b = scheduler(max_rows=16, max_step_tokens=512, prefix_cache=cache)
    decoding = row("a1", max_tokens=1000)
    decoding.cached_tokens = 9
    long, *short = with_prefixes(row("b1", tokens=8000), head=600), row("b2", tokens=650), row("b3", tokens=650)
    for one in short:
        with_prefixes(one, head=600)
    b.add([decoding, long, *short])
    taken_in = []
    while not all(one.token_ids for one in short):
        for one in b.schedule(0.0).admitted:
            known = [prefix.tokens for prefix in one.shared_prefixes if prefix.key in cache]
            one.cached_tokens = one.seated_tokens = max(known, default=one.cached_tokens)
        plan = b.plan_step()
        for one, tokens in (*plan.pieces.items(), *((one, 1) for one in plan.decoding)):
            one.cached_tokens += tokens
            one.token_ids += [0] * (one.cached_tokens == one.total_tokens)
            cache.update(prefix.key for prefix in one.shared_prefixes if one.cached_tokens >= prefix.tokens)
        taken_in.append(plan.pieces.get(long, 0))
    assert len(taken_in) < 15, "ten steps of 64 tokens take in the instruction"
    assert taken_in[-1] < 20, "then the long one goes on little by little"


def test_an_instruction_that_is_long_itself_comes_little_by_little() -> None:
    b = scheduler(max_rows=4, max_step_tokens=512)
    decoding = row("a1", max_tokens=1000)
    decoding.cached_tokens = 9
    b.add([decoding, with_prefixes(row("b1", tokens=8000), head=3000)])
    b.schedule(0.0)
    assert sum(b.plan_step().pieces.values()) < 20


def test_tokens_are_shared_by_weight() -> None:
    b = scheduler(max_rows=1)
    b.add([row(f"{name}{i}", weight=weight) for i in range(60) for name, weight in (("a", 1), ("b", 2), ("c", 0.5))])
    order = ""
    for _ in range(70):
        (chosen,) = b.schedule(0.0).admitted
        order += chosen.namespace
        b.drop([chosen])
    assert {name: order.count(name) for name in "abc"} == {"a": 20, "b": 40, "c": 10}


def test_shares_go_by_the_caller() -> None:
    b = scheduler(max_rows=4)
    b.add([row("a1"), row("a2"), row("a3"), row("b1", caller="a"), row("c1", caller="z"), row("c2", caller="z")])
    assert admitted(b) == "a1 c1 a2 c2"


def test_a_namespace_has_no_more_rows_than_it_may_and_others_have_the_seats() -> None:
    b = scheduler(max_rows=4)
    waiting = [row(f"a{i}", most_rows=2) for i in range(4)]
    b.add([*waiting, row("b1"), row("b2", lane="batch")])
    assert admitted(b) == "a0 b1 a1 b2"
    assert admitted(b) == ""
    b.drop([waiting[0]])
    assert admitted(b) == "a2", "once one has ended"
