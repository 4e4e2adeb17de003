"""When the training of a method ends. Pure."""

from __future__ import annotations

import math

import msgspec

from guideway.training.runs.events import StopRule
from guideway.training.runs.task import StopRules


class Validation(msgspec.Struct, frozen=True):
    """What the looks at the validation rows have come to so far."""

    loss: float = math.inf
    """At the latest look."""
    best_loss: float = math.inf
    best_step: int = 0
    since_best: int = 0
    """Looks one after the other that were no better."""
    at_step: int = -1
    """Of the latest look."""

    def after(self, loss: float, step: int, rules: StopRules) -> Validation:
        """With one more look."""
        if loss < self.best_loss - rules.least_improvement:
            return Validation(loss, loss, step, 0, step)
        return Validation(loss, self.best_loss, self.best_step, self.since_best + 1, step)


def last_step(rules: StopRules, steps_per_epoch: int) -> int:
    """The step at which training ends if nothing ends it before."""
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
    """The rule that ends training after `step` steps, if any. Quality comes before quantity in what is reported.

    planned_step: the last one for which there is time.
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
    """Share of the highest learning rate in a step: up in a line, then down by half a cosine. step: from 0 on."""
    warm = max(1, round(warm_up * of))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, of - warm)))
