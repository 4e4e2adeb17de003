"""The training of one method, step by step. It owns the parameters, the optimiser and the position."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training import checkpoint
from guideway.training.batches import Batches, pieces
from guideway.training.checkpoint import Position
from guideway.training.encoding import Encoded
from guideway.training.run_events import StopRule
from guideway.training.stop_rules import fired, last_step, rate
from guideway.training.task import Schedule, StopRules
from guideway.training.trainable import Trainable


class Trainer:
    """Four verbs: `restore`, `step`, `evaluate`, `keep`. What has to happen next says `loop.train`."""

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
        self.last_step = last_step(stop, self._batches.steps_per_epoch)
        self._parameters = trainable.parameters
        self._best = self._copies()
        self._learning_rate = learning_rate
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=learning_rate, weight_decay=schedule.weight_decay
        )

    @property
    def fired(self) -> StopRule | None:
        """The stop rule that ends this training now, if any."""
        return fired(
            self._stop,
            step=self.position.step,
            steps_per_epoch=self._batches.steps_per_epoch,
            elapsed_s=self.position.elapsed_s,
            validation=self.position.validation,
        )

    def step(self) -> tuple[float, float, int]:
        """One step of the optimiser; returns the loss before it, the learning rate and the computed positions.

        Raises: Refusal `invalid_setting` if the loss is no number any more.
        """
        began = time.monotonic()
        done = self.position.step
        rows = [self._rows[i] for i in self._batches.rows(done)]
        learning_rate = self._learning_rate * rate(done, of=self.last_step, warm_up=self.schedule.warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        answer_tokens = sum(row.answer for row in rows)
        total, tokens = 0.0, 0
        self._trainable.module.train()
        for some in self._pieces(rows, by_length=self.schedule.by_length):
            loss, _ = self._trainable.answer_loss(some)
            # A sum over all answer tokens of the step, so that its pieces do not matter.
            (loss / answer_tokens).backward()  # type: ignore[no-untyped-call]
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

    def evaluate(self) -> float:
        """Mean loss per answer token over the validation rows; remembers the parameters where it is the lowest."""
        began = time.monotonic()
        self._trainable.module.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for some in self._pieces(self._validation, by_length=True):
                loss, tokens = self._trainable.answer_loss(some)
                total, count = total + loss.item(), count + tokens
        after = self.position.validation.after(total / count, self.position.step, self._stop)
        if after.since_best == 0:
            self._best = self._copies()
        self._move(time.monotonic() - began, validation=after)
        return total / count

    def keep(self, file: Path) -> None:
        """Write the checkpoint."""
        checkpoint.write(file, self.position, self._parameters, self._best, self._optimiser)

    def restore(self, file: Path) -> None:
        """Go on where the checkpoint was written."""
        self.position = checkpoint.read(file, self._parameters, self._best, self._optimiser)

    def take_best(self) -> None:
        """Let the parameters be those of the lowest validation loss."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(self._best[name])

    def _pieces(self, rows: Sequence[Encoded], *, by_length: bool) -> Iterator[list[Encoded]]:
        lengths = [self._trainable.computed_tokens([row]) for row in rows]
        together = pieces(lengths, self.schedule.tokens_at_once, by_length=by_length)
        return ([rows[place] for place in piece] for piece in together)

    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def _move(self, took_s: float, **changes: Any) -> None:
        elapsed_s = self.position.elapsed_s + took_s
        self.position = msgspec.structs.replace(self.position, elapsed_s=elapsed_s, **changes)
