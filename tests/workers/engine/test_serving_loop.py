"""The engine process's loop: what has come by the time it looks is one micro-batch, also for an idle engine."""

from __future__ import annotations

from typing import cast

import msgspec
from tests.workers.engine.conftest import MakeAdmit

from guideway.schemas.output import Choice
from guideway.workers.engine.engine import Engine
from guideway.workers.engine_process import serve
from guideway.workers.messages.every_child import Stop
from guideway.workers.messages.from_engine import BatchReport, Finished
from guideway.workers.messages.to_engine import Admit, ToEngine
from guideway.workers.processes.channel import Channel


class Inbox:
    """A channel on which everything has come already, and that is told to stop when all of it is answered."""

    def __init__(self, admits: list[Admit]) -> None:
        self._here: list[ToEngine] = [*admits]
        self._open = {admit.id for admit in admits}
        self.sent: list[msgspec.Struct] = []

    def receive(self) -> ToEngine:
        assert self._here, "the engine waits, and nothing more will come"
        return self._here.pop(0)

    def waiting(self) -> list[ToEngine]:
        taken, self._here = self._here, []
        return taken

    def send(self, message: msgspec.Struct) -> None:
        self.sent.append(message)
        if isinstance(message, Finished):
            self._open.remove(message.id)
            if not self._open:
                self._here.append(Stop())


def test_what_waits_for_an_idle_engine_runs_together(engine: Engine, make_admit: MakeAdmit) -> None:
    """Answers of one token end in the step in which they begin: the engine is idle again after each."""
    inbox = Inbox([make_admit(f"text {number}", output=Choice(["yes", "no"]), max_tokens=4) for number in range(6)])
    serve(cast("Channel[ToEngine]", inbox), engine)
    largest = max(len(message.rows) for message in inbox.sent if isinstance(message, BatchReport))
    assert largest >= 5, "but for the first, whose beginning the others share"
