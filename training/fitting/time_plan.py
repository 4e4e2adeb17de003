"""Plans how many steps the time allows, so that a training reaches the end of its schedule. Pure."""

from __future__ import annotations

import math
from typing import Final

import msgspec

_USED: Final = 0.95
"""The share of the time to plan for: steps differ in length, and the machine has other work."""
_LOOKS_SHARE: Final = 0.3
"""The share of the time for evaluations if the time is short. At least one is always planned."""
_LONGER: Final = 1.1
"""A new plan needs so many times the steps of the old one, because the learning rate follows the plan."""


class TimePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last step of training, and how often the validation rows are evaluated."""

    last_step: int
    evaluate_every: int
    from_step: int = 0
    """The step at which the plan was made: evaluations are counted from here."""

    def looks_after(self, step: int) -> bool:
        """Whether the validation rows are evaluated after `step` steps. The last step is evaluated in any case."""
        return step == 0 or (step > self.from_step and (step - self.from_step) % self.evaluate_every == 0)

    def left_s(self, step: int, *, step_s: float, look_s: float) -> float:
        """Seconds from `step` to the end, if a step takes `step_s` and an evaluation `look_s`."""
        steps = max(0, self.last_step - step)
        looks = math.ceil((self.last_step - self.from_step) / self.evaluate_every) - max(
            0, (step - self.from_step) // self.evaluate_every
        )
        return steps * step_s + max(0, min(looks, steps)) * look_s


def planned(wanted: TimePlan, present: TimePlan, step: int, *, left_s: float, step_s: float, look_s: float) -> TimePlan:
    """The part of `wanted` that fits into `left_s` from `step` on; `present` if it fits and is about the same."""
    if step >= present.last_step:
        return present
    found = _shortened(wanted, step, left_s=left_s, step_s=step_s, look_s=look_s)
    fits = present.left_s(step, step_s=step_s, look_s=look_s) <= left_s
    return present if fits and found.last_step <= _LONGER * present.last_step else found


def _shortened(wanted: TimePlan, step: int, *, left_s: float, step_s: float, look_s: float) -> TimePlan:
    usable_s = _USED * left_s
    if wanted.left_s(step, step_s=step_s, look_s=look_s) <= usable_s:
        return wanted
    wanted_looks = math.ceil(wanted.last_step / wanted.evaluate_every)
    looks = max(1, min(wanted_looks, int(_LOOKS_SHARE * usable_s / max(look_s, 1e-9))))
    steps = max(0 if step else 1, int((usable_s - looks * look_s) / max(step_s, 1e-9)))
    steps = min(steps, wanted.last_step - step)
    return TimePlan(step + steps, max(1, math.ceil(steps / looks)), step)
