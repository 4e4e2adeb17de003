"""When training ends, and by which rule."""

from __future__ import annotations

import math

import pytest

from guideway.training.fitting.stop_rules import Validation, fired, last_step, rate
from guideway.training.runs.events import StopRule
from guideway.training.runs.task import StopRules


def seen(*losses: float, rules: StopRules) -> Validation:
    validation = Validation()
    for step, loss in enumerate(losses):
        validation = validation.after(loss, step * 10, rules)
    return validation


@pytest.mark.parametrize(
    ("rules", "step", "elapsed_s", "losses", "rule"),
    [
        (StopRules(max_steps=10), 9, 0, (3, 2), None),
        (StopRules(max_steps=10), 10, 0, (3, 2), "max_steps"),
        (StopRules(max_steps=100, max_epochs=2), 39, 0, (), None),
        (StopRules(max_steps=100, max_epochs=2), 40, 0, (), "max_epochs"),
        (StopRules(max_steps=40, max_epochs=2), 40, 0, (), "max_steps"),
        (StopRules(max_minutes=1), 5, 59, (), None),
        (StopRules(max_minutes=1), 5, 60, (), "max_minutes"),
        (StopRules(loss_below=0.5), 5, 0, (3, 0.5), None),
        (StopRules(loss_below=0.5), 5, 0, (3, 0.4), "loss_below"),
        (StopRules(patience=2), 5, 0, (3, 1, 2, 0.9, 1), None),
        (StopRules(patience=2), 5, 0, (3, 1, 2, 1), "converged"),
        (StopRules(patience=2, least_improvement=0.2), 5, 0, (3, 1, 0.9, 0.85), "converged"),
        (StopRules(patience=None), 5, 0, (1, 2, 3, 4, 5, 6, 7), None),
    ],
)
def test_which_rule_fires(
    rules: StopRules, step: int, elapsed_s: float, losses: tuple[float, ...], rule: StopRule | None
) -> None:
    validation = seen(*losses, rules=rules)
    found = fired(rules, step=step, planned_step=1000, steps_per_epoch=20, elapsed_s=elapsed_s, validation=validation)
    assert found == rule


def test_a_training_that_was_planned_shorter_ends_by_time() -> None:
    def ended(step: int) -> StopRule | None:
        rules = StopRules(max_steps=160)
        return fired(rules, step=step, planned_step=23, steps_per_epoch=20, elapsed_s=50, validation=Validation())

    assert [ended(22), ended(23), ended(160)] == [None, "max_minutes", "max_steps"]


def test_the_best_look_is_remembered() -> None:
    validation = seen(3, 1, 2, rules=StopRules())
    assert (validation.loss, validation.best_loss, validation.best_step, validation.since_best) == (2, 1, 10, 1)


def test_the_last_step() -> None:
    assert last_step(StopRules(max_steps=100), 20) == 100
    assert last_step(StopRules(max_steps=100, max_epochs=0.5), 21) == 11
    assert last_step(StopRules(max_steps=100, max_epochs=50), 20) == 100


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate(step, of=100, warm_up=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1)
    assert max(rates) <= 1
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert 0 < rates[-1] < 0.01
