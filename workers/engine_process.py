"""The engine in a process of its own: `python -m guideway.workers.engine_process --fd N`, told what to do by a socket.

It ends when it is told to, when the other end of the socket closes, and when its parent dies, whichever comes first.
Logs go to stderr and hold no texts.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from guideway import logs
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.workers.engine.model.model_kind import unsupported
from guideway.workers.messages.every_child import Stop
from guideway.workers.messages.to_engine import TO_ENGINE, Admit, Cancel, Start, ToEngine
from guideway.workers.processes.channel import Channel
from guideway.workers.processes.child_main import Loaded, child_main

if TYPE_CHECKING:
    from guideway.workers.engine.engine import Engine
    from guideway.workers.engine.model.base_model import BaseModel

_SWITCH_S: Final = 0.0005

log = structlog.get_logger()


def load(start: Start) -> Engine:
    """The engine for this model and these settings.

    Raises: Refusal `unknown_model_size` if the model is not there or is not the one whose fingerprint is declared;
    `unsupported_model` if the engine cannot run it.
    """
    import torch

    from guideway.workers.engine.engine import Engine
    from guideway.workers.engine.model import base_model

    logs.adopt_libraries()
    model, settings = start.model, start.settings
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder = base_model.prepare(model.source, Path(settings.model_cache), progress=log.info)
    try:
        base = base_model.load(folder, dtype=getattr(torch, model.dtype), device=settings.device)
        _check_fingerprint(model, base)
        return Engine(base, settings, max_context_tokens=model.max_context_tokens)
    except (Refusal, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Started again, the process would end the same way, and again.
        log.warning("no engine can be made of the model", at=traceback.format_tb(error.__traceback__))
        raise unsupported(f"the engine cannot run {model.source!r} ({type(error).__name__}: {error})") from error


def serve(channel: Channel[ToEngine], engine: Engine) -> None:
    """Run what comes until told to stop."""
    while True:
        # An idle engine waits for the first, and takes whatever came with it: they are one micro-batch.
        first = [] if engine.has_work else [channel.receive()]
        messages = first + channel.waiting()
        for message in messages:
            match message:
                case Admit():
                    engine.add(message)
                case Cancel():
                    engine.cancel(message.id)
                case Stop():
                    return
                case Start():
                    log.error("started twice; the second start is ignored")
        for answer in engine.step(time.time()):
            channel.send(answer)


def main() -> int:
    """Exit status 0 if told to stop or left alone, 1 if the model cannot be loaded, else a crash."""
    return child_main(
        "guideway.workers.engine_process",
        TO_ENGINE,
        Start,
        prepare=prepare_process,
        load=lambda start, _: _loaded(start),
        serve=serve,
    )


def prepare_process() -> None:
    """Let threads beside the steps of the model disturb these little."""
    # A second pool of threads would take the cores from the steps of the model.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # A step gives the interpreter away hundreds of times, and waits so long for it while another thread computes in it.
    sys.setswitchinterval(_SWITCH_S)


def keep_what_is_there() -> None:
    """Let the collector of garbage leave alone what this process holds now: the model and all libraries.

    It holds 400,000 objects, and to look through them takes a fifth of a second in the middle of a step.
    """
    gc.collect()
    gc.freeze()


def _loaded(start: Start) -> Loaded[Engine]:
    engine = load(start)
    keep_what_is_there()
    return Loaded(engine, engine.fingerprint, engine.former_fingerprint)


def _check_fingerprint(model: Model, base: BaseModel) -> None:
    if model.fingerprint == base.former_fingerprint:
        raise Refusal(
            FailureCode.UNKNOWN_MODEL_SIZE,
            f"model size {model.name!r} is declared with fingerprint {model.fingerprint}, which is the former way of "
            f"computing it; {model.source!r} is the right source and has {base.fingerprint} now: declare this one, for "
            "the model and for the guidance that was trained on it",
        )
    if model.fingerprint not in (None, base.fingerprint):
        raise Refusal(
            FailureCode.UNKNOWN_MODEL_SIZE,
            f"model size {model.name!r} is declared with fingerprint {model.fingerprint}, but {model.source!r} has "
            f"{base.fingerprint}: give the source of the declared model, or declare this one and train guidance anew",
        )


if __name__ == "__main__":
    sys.exit(main())
