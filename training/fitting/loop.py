"""Trains one method from its beginning or its checkpoint to its end, and tells of every step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from guideway.training.fitting.checkpoint import Position
from guideway.training.fitting.trainer import Trainer
from guideway.training.runs.events import Evaluated, Planned, Resumed, RunEvent, Step, StopRule
from guideway.training.runs.interruption import Interrupted, ShouldEnd

_SPEED_STEPS: Final = 10
"""The speed is measured over so many steps."""


def train(
    trainer: Trainer,
    *,
    size: str,
    method: str,
    file: Path,
    emit: Callable[[RunEvent], None],
    should_end: ShouldEnd,
) -> StopRule:
    """Train until a stop rule fires, from the checkpoint `file` if it exists. Leaves the best parameters in place.

    The measured speed of the steps decides how many steps the schedule has. If the time is too short for all that the
    task wants, an event tells it. emit: gets every event.

    Raises: Interrupted if `should_end` says so, after the checkpoint is written.
    """
    speed = _Speed()
    if file.is_file():
        trainer.restore(file)
        emit(Resumed(at=time.time(), size=size, method=method, step=trainer.position.step))
    kept_at = time.monotonic()
    try:
        while (rule := trainer.fired) is None or not _is_looked_at(trainer):
            position = trainer.position
            # The last step is always evaluated too, whatever ends training: it may be the best.
            if not _is_looked_at(trainer) and (rule is not None or trainer.plan.looks_after(position.step)):
                loss = trainer.evaluate(should_end)
                best = trainer.position.validation.since_best == 0
                emit(Evaluated(at=time.time(), size=size, method=method, step=position.step, loss=loss, best=best))
                continue
            if should_end():
                raise Interrupted
            _step(trainer, speed, size, method, emit, should_end)
            if time.monotonic() - kept_at >= trainer.schedule.checkpoint_every_s:
                trainer.keep(file)
                kept_at = time.monotonic()
    except Interrupted:
        if trainer.position != Position():
            trainer.keep(file)
        raise
    trainer.take_best()
    return rule


def _step(
    trainer: Trainer, speed: _Speed, size: str, method: str, emit: Callable[[RunEvent], None], should_end: ShouldEnd
) -> None:
    """Do one step, and make a new plan if its speed asks for one. Tell both."""
    before = trainer.position
    loss, learning_rate, tokens = trainer.step(should_end)
    now = trainer.position
    speed.add(tokens, now.elapsed_s - before.elapsed_s)
    step_s = trainer.tokens_per_step / speed.tokens_per_s
    if (speed.is_known or trainer.is_short_of_time) and trainer.replan(step_s):
        plan, of = trainer.plan, trainer.wanted.last_step
        emit(Planned(at=time.time(), size=size, method=method, step=now.step, last_step=plan.last_step, of=of))
    emit(
        Step(
            at=time.time(),
            size=size,
            method=method,
            step=now.step,
            of=trainer.plan.last_step,
            loss=loss,
            learning_rate=learning_rate,
            tokens=tokens,
            tokens_per_s=speed.tokens_per_s,
            elapsed_s=now.elapsed_s,
            left_s=trainer.left_s(step_s),
        )
    )


def _is_looked_at(trainer: Trainer) -> bool:
    return trainer.position.validation.at_step == trainer.position.step


class _Speed:
    """The speed of the latest steps. The first step of a process is the slowest, and is soon left out."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=_SPEED_STEPS)
        self._count = 0

    def add(self, tokens: int, took_s: float) -> None:
        self._count += 1
        if self._count == 2:
            self._steps.clear()
        self._steps.append((tokens, took_s))

    @property
    def is_known(self) -> bool:
        """Whether it is good enough for a plan."""
        return self._count > 1

    @property
    def tokens_per_s(self) -> float:
        return sum(tokens for tokens, _ in self._steps) / sum(took_s for _, took_s in self._steps)
