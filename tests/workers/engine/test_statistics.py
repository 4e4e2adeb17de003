"""What is reported, and when, in literal times. No model and no tensor."""

from __future__ import annotations

from tests.workers.engine.rows import row, rows

from guideway.workers.engine.statistics import Statistics
from guideway.workers.messages.from_engine import Progress


def test_members_are_reported_when_they_change() -> None:
    statistics = Statistics()
    first, second, third = rows("a1 b1 a2")
    statistics.steps = 1
    report = statistics.members([first, second])
    assert report is not None
    assert (report.step, [member.request_id for member in report.rows]) == (1, ["a1", "b1"])
    statistics.steps = 2
    assert statistics.members([second, first]) is None, "the order of seats is no change"
    statistics.steps = 3
    report = statistics.members([second, third])
    assert report is not None
    assert (report.step, [member.namespace for member in report.rows]) == (3, ["b", "a"])


def test_samples_of_one_request_are_members_each() -> None:
    statistics = Statistics()
    one, other = row("a1"), row("a1")
    other.sample = 1
    assert statistics.members([one]) is not None
    assert statistics.members([one, other]) is not None


def told(statistics: Statistics, now: float, *, idle: bool = False) -> bool:
    return statistics.progress(now, running=1, waiting=0, idle=idle) is not None


def test_progress_is_told_once_a_second_and_whenever_nothing_is_open() -> None:
    statistics = Statistics()
    times = (1000.0, 1000.4, 1000.9, 1001.1, 1001.2, 1002.2)
    assert [told(statistics, now) for now in times] == [True, False, False, True, False, True]
    assert [told(statistics, 1002.3, idle=True), told(statistics, 1002.4)] == [True, False]


def test_a_clock_that_is_set_back_does_not_stop_reports() -> None:
    statistics = Statistics()
    assert [told(statistics, now) for now in (90_000.0, 1_000.0, 1_000.5, 1_001.1)] == [True, True, False, True]


def test_progress_tells_the_counts() -> None:
    statistics = Statistics(steps=4, output_tokens=9, reused_tokens=20, preempted=2, busy_s=0.5)
    assert statistics.progress(1000.0, running=3, waiting=8, idle=False) == Progress(
        step=4, running=3, waiting=8, output_tokens=9, busy_s=0.5, reused_tokens=20, preempted=2
    )
