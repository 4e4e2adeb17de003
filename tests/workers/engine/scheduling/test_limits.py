"""Seats by weight, by limits of rows, and by what a namespace missed while it was away."""

from __future__ import annotations

from collections import Counter

from tests.workers.engine.rows import row, scheduler
from tests.workers.engine.scheduling.test_scheduler import grown, pieces
from tests.workers.engine.scheduling.test_seats import many, served


def test_a_few_requests_that_come_at_once_run_at_once_beside_a_backlog() -> None:
    """Ten of 18 tokens fit into what their namespace missed; and whoever has a backlog keeps a seat."""
    s = served(max_rows=16)
    s.add(*many("a", 300, max_tokens=8), length=8)
    s.run(40)
    few = many("b", 10, max_tokens=8)
    s.add(*few, length=8)
    s.run(2)
    assert s.held().count("b") == 10
    s.run_until(lambda: all(each in s.ended for each in few))
    assert max(s.ended[each] - s.came[each] for each in few) <= 10
    s.add(*many("c", 17, max_tokens=8), length=8)
    s.run(2)
    assert s.held().count("c") >= 14
    assert "a" in s.held()


def test_who_has_had_as_much_as_others_has_no_more_than_its_equal_part() -> None:
    s = served(max_rows=16)
    s.add(*many("a", 3000, max_tokens=8), length=8)
    s.run(40)
    had = Counter[str]()
    for turn in range(30):
        before = {name: sum(each.namespace == name for each in s.ended) for name in "ab"}
        few = many("b", 60, max_tokens=8)
        s.add(*few, length=8)
        s.run_until(lambda few=few: all(each in s.ended for each in few))  # type: ignore[misc]
        if turn > 5:
            for name in "ab":
                had[name] += sum(each.namespace == name for each in s.ended) - before[name]
    assert 0.85 <= had["b"] / had["a"] <= 1.05, "it came back whenever it was done: its part is the half"


def test_seats_are_shared_by_weight_where_rows_of_all_wait() -> None:
    s = served(max_rows=9)
    s.add(*many("a", 50), length=900)
    s.run(5)
    s.add(*many("b", 50, weight=2), length=900)
    s.run(2)
    assert Counter(s.held()) == {"a": 3, "b": 6}
    moved = len(s.gone)
    s.run(300)
    assert len(s.gone) == moved, "and there it stays"
    s.add(*many("c", 50, weight=0.01), length=900)
    s.run(2)
    assert Counter(s.held()) == {"a": 3, "b": 6}, "it has so little that a seat of others would be too much"
    s.run_until(lambda: any(each.namespace == "c" for each in s.ended))


def test_a_limit_of_rows_holds_while_seats_are_free() -> None:
    s = served()
    s.add(*many("a", 20, most_rows=3), length=20)
    s.run(5)
    assert s.held() == "aaa"
    s.add(*many("b", 20), length=20)
    s.run()
    assert s.held() == "aaabbbbb"


def test_who_uses_less_than_its_part_goes_on_having_the_seats_for_its_few_requests() -> None:
    """It asks again and again, and has 200 of 500 tokens."""
    s = served(max_rows=16)
    s.add(*many("a", 5000, max_tokens=8), length=8)
    s.run(400)
    waits = []
    for _ in range(60):
        few = many("b", 10, max_tokens=8)
        s.add(*few, length=8)
        s.run_until(lambda few=few: all(each in s.ended for each in few))  # type: ignore[misc]
        waits.append(max(s.ended[each] - s.came[each] for each in few))
        s.run(5)
    assert sorted(waits)[-3] <= 11, "a row or two of others that had just come back stayed"


def test_prompts_of_a_few_requests_come_in_together_beside_a_backlog() -> None:
    b = scheduler(max_rows=16, max_step_tokens=512, beside_others=4)
    b.add(decoding := many("a", 100, max_tokens=8))
    b.schedule(0.0)
    b.plan_step()
    for each in decoding[:16]:
        each.cached_tokens = each.total_tokens
        grown(each, by=1)
    for _ in range(20):
        b.plan_step()
    b.add(row(f"b{number}", tokens=17, max_tokens=8) for number in range(10))
    b.schedule(0.0)
    assert pieces(b.plan_step()) == [(f"b{number}", 17) for number in range(7)], (
        "a step with others takes in 128 tokens"
    )
