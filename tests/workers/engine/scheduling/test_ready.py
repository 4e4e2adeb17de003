"""Rows whose guidance is not in memory are overtaken, and come in their turn. No model and no tensor."""

from __future__ import annotations

from dataclasses import dataclass

from tests.workers.engine.rows import row, rows, scheduler

from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.scheduler import Scheduler


def ids(some: list[Row]) -> str:
    return " ".join(each.id for each in some)


def test_others_overtake_a_row_that_is_not_ready_and_it_comes_when_it_is() -> None:
    b = scheduler(max_rows=2)
    a1, a2, a3, a4 = waiting = rows("a1 a2 a3 a4")
    b.add(waiting)
    choice = b.schedule(0.0, ready={a2, a4})
    assert (ids(choice.admitted), ids(choice.unready)) == ("a2 a4", "a1 a3")
    b.drop([a2])
    choice = b.schedule(0.0, ready={a3})
    assert (ids(choice.admitted), ids(choice.unready)) == ("a3", "a1")
    b.drop([a4])
    choice = b.schedule(0.0, ready={a1})
    assert (ids(choice.admitted), ids(choice.unready)) == ("a1", "")


def test_what_is_ready_by_the_next_choice_does_not_wait_another() -> None:
    b = scheduler(max_rows=1)
    (first,) = waiting = rows("a1")
    b.add(waiting)
    ready: set[Row] = set()
    assert b.schedule(0.0, ready=ready).admitted == []
    ready.add(first)
    assert b.schedule(0.0, ready=ready).admitted == [first]


def test_rows_that_are_not_ready_are_the_first_upcoming_ones() -> None:
    b = scheduler(max_rows=2)
    b.add(waiting := rows("a1 a2 a3 a4 a5"))
    assert ids(b.schedule(0.0, ready={waiting[1]}).admitted) == "a2"
    assert ids(b.upcoming(3)) == "a1 a3 a4", "all of them would have a seat"
    b.schedule(0.0, ready={waiting[4]})
    assert ids(b.upcoming(9)) == "a1 a3 a4"
    b.drop([waiting[0]])
    assert ids(b.upcoming(9)) == "a3 a4"


def test_a_row_without_a_seat_is_not_unready() -> None:
    b = scheduler(max_rows=1)
    b.add(waiting := rows("a1 a2"))
    choice = b.schedule(0.0, ready={waiting[0]})
    assert (ids(choice.admitted), ids(choice.unready)) == ("a1", "")
    assert b.schedule(0.0, ready=set()).unready == []
    assert ids(b.upcoming(1)) == "a2"


def test_nobody_gives_up_a_seat_for_a_row_that_is_not_ready() -> None:
    b = scheduler(max_rows=2)
    running = [row(f"a{i}", lane="batch") for i in range(2)]
    b.add(running)
    b.schedule(0.0)
    b.add(waiting := rows("b1"))
    choice = b.schedule(0.0, ready=set())
    assert (choice.preempted, ids(choice.unready)) == ([], "b1")
    assert ids(b.schedule(0.0, ready={*waiting}).admitted) == "b1"


@dataclass
class Counted:
    """All rows are ready; counts how often somebody looks."""

    looks: int = 0

    def __contains__(self, row: object) -> bool:
        self.looks += 1
        return True


def test_a_backlog_is_not_looked_up() -> None:
    """Only rows that would be admitted are: five thousand wait, four come."""
    b = scheduler(max_rows=4)
    b.add([row(f"{'abc'[i % 3]}{i}") for i in range(5000)])
    ready = Counted()
    assert len(b.schedule(0.0, ready=ready).admitted) == 4
    assert ready.looks == 4
    for _ in range(3):
        b.schedule(0.0, ready=ready)
    assert ready.looks == 4, "no seat, no look"


def test_no_row_starves_among_those_that_become_ready_one_by_one() -> None:
    b: Scheduler = scheduler(max_rows=2)
    waiting = rows("a1 a2 a3 b1 b2 c1")
    b.add(waiting)
    seen: list[str] = []
    ready: set[Row] = set()
    for latest in reversed(waiting):
        ready.add(latest)
        came = b.schedule(0.0, ready=ready).admitted
        seen += [each.id for each in came]
        b.drop(came)
    assert sorted(seen) == sorted(each.id for each in waiting)
