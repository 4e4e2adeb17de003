"""An engine without a model whose steps take a fixed time: `python -m benchmarks.stepped_engine --fd N`.

Which rows run, and when, is decided by the engine's own `Scheduler`. Each row generates `generation.max_tokens` tokens.
STEP_MS is the time of a step in milliseconds: it is waited and not computed, so a busy machine disturbs it less.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.scheduler import Scheduler
from guideway.workers.messages.every_child import Refused, Stop
from guideway.workers.messages.from_engine import Finished, Generated
from guideway.workers.messages.to_engine import TO_ENGINE, Admit, Cancel, Start, ToEngine
from guideway.workers.processes.channel import Channel
from guideway.workers.processes.child_main import Loaded, child_main

STEP_S = float(os.environ.get("STEP_MS", "100")) / 1000


class SteppedEngine:
    """Owner of the rows, as `Engine` is, without a tensor."""

    def __init__(self, rows: int) -> None:
        self._scheduler = Scheduler(max_rows=rows, max_step_tokens=512)
        self._rows: dict[str, Row] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._rows)

    def add(self, admit: Admit) -> None:
        tokens = sum(len(part.text) for part in admit.request.parts) // 4
        sampler: Any = None
        row = Row(admit=admit, sample=0, prompt_ids=range(tokens + 1), virtual_tokens=0, sampler=sampler)
        self._rows[admit.id] = row
        self._scheduler.add([row])

    def cancel(self, id_: str) -> None:
        if (row := self._rows.pop(id_, None)) is not None:
            self._scheduler.drop([row])

    def step(self, now: float) -> list[Finished | Refused]:
        """One step: who comes, what it runs, and who has ended."""
        choice = self._scheduler.schedule(now)
        for row in choice.preempted:
            row.cached_tokens = 0
        plan = self._scheduler.plan_step()
        time.sleep(STEP_S)
        taken = [*((row, 1) for row in plan.decoding), *plan.pieces.items()]
        ended = []
        for row, tokens in taken:
            row.cached_tokens += tokens
            if not row.missing_tokens:
                row.token_ids.append(0)
                if row.most_left <= 0:
                    ended.append(row)
        self._scheduler.drop(ended)
        return [self._told(row) for row in ended]

    def _told(self, row: Row) -> Finished:
        del self._rows[row.id]
        said = Generated(text="x" * len(row.token_ids), finish_reason="length")
        return Finished(id=row.id, samples=[said], prompt_tokens=row.prompt_tokens, output_tokens=len(row.token_ids))


def serve(channel: Channel[ToEngine], engine: SteppedEngine) -> None:
    """Run what comes until told to stop."""
    while True:
        first = [] if engine.has_work else [channel.receive()]
        for message in first + channel.waiting():
            match message:
                case Admit():
                    engine.add(message)
                case Cancel():
                    engine.cancel(message.id)
                case Stop():
                    return
        for answer in engine.step(time.time()):
            channel.send(answer)


def load(start: Start, channel: Channel[ToEngine]) -> Loaded[SteppedEngine]:
    return Loaded(SteppedEngine(start.settings.max_rows), start.model.fingerprint or "none")


if __name__ == "__main__":
    sys.exit(child_main("benchmarks.stepped_engine", TO_ENGINE, Start, load=load, serve=serve))
