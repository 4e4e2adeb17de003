"""The training of one method from its beginning, or its checkpoint, to its end; what happens is told step by step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from guideway.training.run_events import Evaluated, Resumed, RunEvent, Step, StopRule
from guideway.training.trainer import Trainer

_SPEED_STEPS: Final = 10
"""The speed that is shown is that of so many steps before."""


class Interrupted(Exception):
    """The run was asked to end; where it was training, the checkpoint is written."""


def train(
    trainer: Trainer,
    *,
    size: str,
    method: str,
    file: Path,
    emit: Callable[[RunEvent], None],
    should_end: Callable[[], bool],
) -> StopRule:
    """Train until a stop rule fires, from the checkpoint `file` on if it is there; leaves the best parameters in place.

    emit: is told of every step. should_end: asked before every step. Raises: Interrupted if that says so.
    """
    schedule, speed = trainer.schedule, _Speed()
    if file.is_file():
        trainer.restore(file)
        emit(Resumed(at=time.time(), size=size, method=method, step=trainer.position.step))
    kept_at = time.monotonic()
    while True:
        position = trainer.position
        rule = trainer.fired
        # Whatever ends training, the last step is looked at as well: it may be the best.
        evaluated = position.validation.at_step == position.step
        if not evaluated and (rule is not None or position.step % schedule.evaluate_every == 0):
            loss = trainer.evaluate()
            best = trainer.position.validation.since_best == 0
            emit(Evaluated(at=time.time(), size=size, method=method, step=position.step, loss=loss, best=best))
            continue
        if rule is not None:
            trainer.take_best()
            return rule
        if should_end():
            trainer.keep(file)
            raise Interrupted
        loss, learning_rate, tokens = trainer.step()
        now = trainer.position
        speed.add(tokens, now.elapsed_s - position.elapsed_s)
        emit(
            Step(
                at=time.time(),
                size=size,
                method=method,
                step=now.step,
                of=trainer.last_step,
                loss=loss,
                learning_rate=learning_rate,
                tokens=tokens,
                tokens_per_s=speed.tokens_per_s,
                elapsed_s=now.elapsed_s,
                left_s=(trainer.last_step - now.step) * speed.step_s,
            )
        )
        if time.monotonic() - kept_at >= schedule.checkpoint_every_s:
            trainer.keep(file)
            kept_at = time.monotonic()


class _Speed:
    """How fast the latest steps were."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=_SPEED_STEPS)

    def add(self, tokens: int, took_s: float) -> None:
        self._steps.append((tokens, took_s))

    @property
    def tokens_per_s(self) -> float:
        return sum(tokens for tokens, _ in self._steps) / sum(took_s for _, took_s in self._steps)

    @property
    def step_s(self) -> float:
        return sum(took_s for _, took_s in self._steps) / len(self._steps)
