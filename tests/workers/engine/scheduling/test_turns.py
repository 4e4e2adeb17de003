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
