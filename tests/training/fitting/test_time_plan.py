"""How many steps there is time for."""

from __future__ import annotations

import pytest

from guideway.training.fitting.time_plan import TimePlan, planned

WANTED = TimePlan(160, 20)


def needs_s(plan: TimePlan, step: int, step_s: float, look_s: float) -> float:
    """As the loop goes: steps one after the other, looks where the plan says so and at the end."""
    took_s = 0.0
    while step < plan.last_step:
        step += 1
        took_s += step_s + (look_s if plan.looks_after(step) or step == plan.last_step else 0)
    return took_s


@pytest.mark.parametrize("step", [0, 2, 37])
@pytest.mark.parametrize("step_s", [0.1, 1.5, 16])
@pytest.mark.parametrize("look_s", [0.01, 3, 25])
@pytest.mark.parametrize("left_s", [20, 118, 900])
def test_what_is_planned_fits_in_the_time(step: int, step_s: float, look_s: float, left_s: float) -> None:
    plan = planned(WANTED, WANTED, step, left_s=left_s, step_s=step_s, look_s=look_s)
    took_s = needs_s(plan, step, step_s, look_s)
    assert plan.left_s(step, step_s=step_s, look_s=look_s) == pytest.approx(took_s)
    assert plan.last_step >= max(1, step)
    assert took_s <= left_s or plan.last_step <= max(1, step)
    if step + 1 < plan.last_step < WANTED.last_step:
        assert took_s + 2 * step_s + look_s >= 0.6 * left_s


def test_slow_steps_come_to_an_end_and_are_looked_at() -> None:
    """16 s a step and two minutes: 7 steps, of which some are looked at, instead of the beginning of 160."""
    plan = planned(WANTED, WANTED, 2, left_s=120 - 36, step_s=16, look_s=4)
    assert 5 <= plan.last_step <= 7
    assert plan.looks_after(plan.last_step) or plan.evaluate_every <= 5


def test_a_plan_is_kept_while_the_speed_wavers_and_changed_where_it_was_wrong() -> None:
    first = planned(WANTED, WANTED, 2, left_s=100, step_s=2, look_s=1)
    assert first.last_step < 60
    assert planned(WANTED, first, 10, left_s=84, step_s=2.05, look_s=1) == first
    slower = planned(WANTED, first, 10, left_s=60, step_s=4, look_s=1)
    assert slower.last_step < first.last_step
    assert planned(WANTED, slower, 12, left_s=800, step_s=0.1, look_s=1) == WANTED
    assert planned(WANTED, slower, slower.last_step, left_s=500, step_s=0.1, look_s=1) == slower


def test_looks_are_counted_from_where_the_plan_was_made() -> None:
    plan = TimePlan(last_step=11, evaluate_every=4, from_step=3)
    assert [step for step in range(12) if plan.looks_after(step)] == [0, 7, 11]
