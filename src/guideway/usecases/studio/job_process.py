"""The process of one training job: `python -m guideway.usecases.studio.job_process`, as a trainer starts it.

It reads what is to be done on standard input, and writes what came of it to standard output; see `process_messages`.
SIGTERM ends it after its present step, with a checkpoint, and so does the end of the trainer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from guideway import config, logs
from guideway.schemas.failures import Refusal
from guideway.settings import Settings, home
from guideway.training.jobs.process_messages import ORDER, RESULT, CarryOut, Done, NotPublished, Refused, Result
from guideway.training.runs.interruption import Interrupted, ShouldEnd
from guideway.training.sets.decoding import read_only_within
from guideway.usecases.studio.publish import publish_run
from guideway.usecases.studio.run_studio import carry_out, prepare
from guideway.usecases.supervise import EXIT_INTERRUPTED, end_with_parent
from guideway.usecases.unforeseen import unforeseen


def carry_out_job(settings: Settings, order: CarryOut, should_end: ShouldEnd) -> Result:
    """Train, and publish where that is asked.

    Raises Interrupted where it `should_end`, and what nobody has foreseen before the run is done.
    """
    run = Path(order.folder)
    try:
        prepared = asyncio.run(prepare(settings, order.task, run.parent, out=run))
        carry_out(settings, prepared, device=order.device, should_end=should_end)
    except Refusal as refusal:
        return Refused(code=refusal.code, message=refusal.message)
    if not order.publish:
        return Done()
    if should_end():
        raise Interrupted
    try:
        asyncio.run(publish_run(settings, prepared.begun.folder))
    except Exception as error:
        # The run is done, and is not to be failed by what comes after it.
        why = error if isinstance(error, Refusal) else unforeseen(error, settings.home)[0]
        return NotPublished(code=why.code, message=why.message)
    return Done()


def main() -> int:
    """Do what standard input says; returns the exit code."""
    end_with_parent()
    is_asked = False

    def end(*_: object) -> None:
        nonlocal is_asked
        is_asked = True

    signal.signal(signal.SIGTERM, end)
    with _standard_output() as said:
        try:
            config.load(os.environ)
            logs.quiet_clients()
            logs.configure(logging.ERROR)
            order = ORDER.decode(sys.stdin.buffer.read())
            read_only_within(Path(order.within) if order.within else None)
            result, code = carry_out_job(Settings.from_environ(), order, lambda: is_asked), 0
        except Interrupted:
            return EXIT_INTERRUPTED
        except Refusal as refusal:
            result, code = Refused(code=refusal.code, message=refusal.message), 0
        except Exception as error:
            why, code = unforeseen(error, home())
            result = Refused(code=why.code, message=why.message)
        said.write(RESULT.encode(result))
    return code


def _standard_output() -> BinaryIO:
    """Ours alone: what libraries print goes to the trainer's log, and not among what is said."""
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return said


if __name__ == "__main__":
    sys.exit(main())
