"""The rules that end the training of a method. Pure."""

from __future__ import annotations

import math

import msgspec

from guideway.training.runs.events import StopRule
from guideway.training.runs.task import StopRules


class Validation(msgspec.Struct, frozen=True):
    """The evaluations on the validation rows so far."""

    loss: float = math.inf
    """The loss of the latest evaluation."""
    best_loss: float = math.inf
    best_step: int = 0
    since_best: int = 0
    """How many evaluations since the best one."""
    at_step: int = -1
    """The step of the latest evaluation."""

    def after(self, loss: float, step: int, rules: StopRules) -> Validation:
        """The state after one more evaluation."""
        if loss < self.best_loss - rules.least_improvement:
            return Validation(loss, loss, step, 0, step)
        return Validation(loss, self.best_loss, self.best_step, self.since_best + 1, step)


def last_step(rules: StopRules, steps_per_epoch: int) -> int:
    """The step at which training ends if no other rule ends it before."""
    if rules.max_epochs is None:
        return rules.max_steps
    return min(rules.max_steps, max(1, math.ceil(rules.max_epochs * steps_per_epoch)))


def fired(
    rules: StopRules,
    *,
    step: int,
    planned_step: int,
    steps_per_epoch: int,
    elapsed_s: float,
    validation: Validation,
) -> StopRule | None:
    """The rule that ends training after `step` steps, if any. If several fire, a rule of the loss is reported.

    planned_step: the last step for which there is time.
    """
    if rules.loss_below is not None and validation.loss < rules.loss_below:
        return "loss_below"
    if rules.patience is not None and validation.since_best >= rules.patience:
        return "converged"
    if step >= last_step(rules, steps_per_epoch):
        return "max_steps" if step >= rules.max_steps else "max_epochs"
    if step >= planned_step or (rules.max_minutes is not None and elapsed_s >= 60 * rules.max_minutes):
        return "max_minutes"
    return None


def rate(step: int, *, of: int, warm_up: float) -> float:
    """The share of the highest learning rate in a step: a linear rise, then half a cosine down. step: from 0 on."""
    warm = max(1, round(warm_up * of))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, of - warm)))
