"""The training of one method, step by step. It owns the parameters, the optimiser and the position."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.fitting import checkpoint
from guideway.training.fitting.batches import Batches, pieces
from guideway.training.fitting.checkpoint import Position
from guideway.training.fitting.encoding import Encoded
from guideway.training.fitting.stop_rules import fired, last_step, rate
from guideway.training.fitting.time_plan import TimePlan, planned
from guideway.training.fitting.trainable import Trainable
from guideway.training.runs.events import StopRule
from guideway.training.runs.interruption import Interrupted, ShouldEnd, never
from guideway.training.runs.task import Schedule, StopRules

_STEPS_TO_COME: Final = 32
_COPIED_PER_COMPUTED: Final = 4
"""The keys and values of so many positions take at most the memory that one computed position needs."""


class Trainer:
    """Four verbs: `restore`, `step`, `evaluate`, `keep`. `loop.train` decides which comes next."""

    def __init__(
        self,
        trainable: Trainable,
        rows: Sequence[Encoded],
        validation: Sequence[Encoded],
        *,
        schedule: Schedule,
        stop: StopRules,
        learning_rate: float,
    ) -> None:
        self.position = Position()
        self._trainable = trainable
        self._rows = rows
        self._validation = validation
        self.schedule = schedule
        self._stop = stop
        self._batches = Batches(
            [len(row.ids) for row in rows],
            rows_per_step=schedule.rows_per_step,
            seed=schedule.seed,
            by_length=schedule.by_length,
        )
        self.wanted = TimePlan(last_step(stop, self._batches.steps_per_epoch), schedule.evaluate_every)
        """The plan if there is enough time."""
        self._parameters = trainable.parameters
        self._best = self._copies()
        self._learning_rate = learning_rate
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=learning_rate, weight_decay=schedule.weight_decay
        )

    @property
    def plan(self) -> TimePlan:
        """The plan for the time there is."""
        return self.position.plan or self.wanted

    @property
    def tokens_per_step(self) -> float:
        """The mean number of positions that the next steps compute, padding included."""
        first = self.position.step
        steps = range(first, first + min(_STEPS_TO_COME, self._batches.steps_per_epoch))
        return sum(self._step_tokens(step) for step in steps) / len(steps)

    def _step_tokens(self, step: int) -> int:
        rows = [self._rows[i] for i in self._batches.rows(step)]
        return sum(map(self._trainable.computed_tokens, self._pieces(rows, by_length=self.schedule.by_length)))

    def replan(self, step_s: float) -> bool:
        """Make a plan for the time that is left, if a step takes `step_s` seconds. Returns whether it has changed."""
        if self._stop.max_minutes is None:
            return False
        before, position = self.plan, self.position
        left_s = 60 * self._stop.max_minutes - position.elapsed_s
        plan = planned(self.wanted, before, position.step, left_s=left_s, step_s=step_s, look_s=position.look_s)
        self.position = msgspec.structs.replace(position, plan=plan)
        return plan != before

    @property
    def is_short_of_time(self) -> bool:
        """Whether half of the time is over: then the plan cannot wait until the speed is well known."""
        return self._stop.max_minutes is not None and self.position.elapsed_s > 30 * self._stop.max_minutes

    def left_s(self, step_s: float) -> float:
        """Seconds until the end, if no other rule ends it before."""
        left_s = self.plan.left_s(self.position.step, step_s=step_s, look_s=self.position.look_s)
        if self._stop.max_minutes is None:
            return left_s
        return max(0.0, min(left_s, 60 * self._stop.max_minutes - self.position.elapsed_s))

    @property
    def fired(self) -> StopRule | None:
        """The stop rule that ends this training now, if any."""
        return fired(
            self._stop,
            step=self.position.step,
            planned_step=self.plan.last_step,
            steps_per_epoch=self._batches.steps_per_epoch,
            elapsed_s=self.position.elapsed_s,
            validation=self.position.validation,
        )

    def step(self, should_end: ShouldEnd = never) -> tuple[float, float, int]:
        """Do one step of the optimiser. Returns (loss before it, learning rate, computed positions).

        Raises: Refusal `invalid_setting` if the loss is not finite; Interrupted between two pieces, and then the step
        has no effect.
        """
        generator = torch.get_rng_state()
        began = time.monotonic()
        done = self.position.step
        rows = [self._rows[i] for i in self._batches.rows(done)]
        learning_rate = self._learning_rate * rate(done, of=self.plan.last_step, warm_up=self.schedule.warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        answer_tokens = sum(row.weight * row.answer for row in rows)
        total, tokens = 0.0, 0
        self._trainable.module.train()
        for some in self._pieces(rows, by_length=self.schedule.by_length):
            loss, _ = self._trainable.answer_loss(some)
            # A sum over all answer tokens of the step, so that its division into pieces has no effect.
            (loss / answer_tokens).backward()  # type: ignore[no-untyped-call]
            if should_end():
                self._optimiser.zero_grad()
                torch.set_rng_state(generator)
                raise Interrupted
            total += loss.item()
            tokens += self._trainable.computed_tokens(some)
        if not math.isfinite(total):
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the loss of step {done + 1} is not a number any more: lower the method's learning_rate",
            )
        nn.utils.clip_grad_norm_(self._parameters.values(), self.schedule.max_gradient_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._move(time.monotonic() - began, step=done + 1)
        return total / answer_tokens, learning_rate, tokens

    def evaluate(self, should_end: ShouldEnd = never) -> float:
        """The mean loss per answer token over the validation rows. Keeps the parameters if it is the lowest so far.

        Raises: Interrupted between two pieces, and then it has no effect.
        """
        began = time.monotonic()
        self._trainable.module.eval()
        total, count = 0.0, 0.0
        with torch.no_grad():
            for some in self._pieces(self._validation, by_length=True):
                if should_end():
                    raise Interrupted
                loss, tokens = self._trainable.answer_loss(some)
                total, count = total + loss.item(), count + tokens
        after = self.position.validation.after(total / count, self.position.step, self._stop)
        if after.since_best == 0:
            self._best = self._copies()
        took_s = time.monotonic() - began
        self._move(took_s, validation=after, look_s=took_s)
        return total / count

    def keep(self, file: Path) -> None:
        """Write the checkpoint."""
        checkpoint.write(file, self.position, self._parameters, self._best, self._optimiser)

    def restore(self, file: Path) -> None:
        """Continue from the checkpoint. Raises: Refusal `invalid_setting` if it belongs to another training."""
        self.position = checkpoint.read(file, self._parameters, self._best, self._optimiser)

    def take_best(self) -> None:
        """Set the parameters to those with the lowest validation loss."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(self._best[name])

    def _pieces(self, rows: Sequence[Encoded], *, by_length: bool) -> Iterator[list[Encoded]]:
        once = self._trainable.shared_tokens(rows)
        # Each row keeps a copy of the shared keys and values until its backward pass.
        lengths = [self._trainable.computed_tokens([row]) - once + once // _COPIED_PER_COMPUTED for row in rows]
        together = pieces(lengths, self.schedule.tokens_at_once - once, by_length=by_length)
        return ([rows[place] for place in piece] for piece in together)

    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def _move(self, took_s: float, **changes: Any) -> None:
        elapsed_s = self.position.elapsed_s + took_s
        self.position = msgspec.structs.replace(self.position, elapsed_s=elapsed_s, **changes)
