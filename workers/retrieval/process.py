"""Retrieval in a process of its own: `python -m guideway.workers.retrieval.process --fd N`, told what by a socket.

Beside the engine's, so that looking up never holds up a step of the model. Whatever waits is looked up together; what
comes meanwhile is the next batch. Logs go to stderr and hold no texts.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from guideway import logs
from guideway.schemas.failures import Refusal
from guideway.workers.messages.every_child import Broken, Ready, Stop
from guideway.workers.messages.to_retrieval import TO_RETRIEVAL, Lookup, Opened, StartRetrieval, ToRetrieval
from guideway.workers.processes.channel import Channel

if TYPE_CHECKING:
    from guideway.workers.retrieval.lookups import Lookups

_NICE: Final = 5
"""Behind the engine where both want the same core: a lookup that comes later costs less than a step that does."""
_KEPT_LENGTHS: Final = 20_000

log = structlog.get_logger()


def load(start: StartRetrieval, channel: Channel[ToRetrieval]) -> tuple[Lookups, str]:
    """The lookups, and the embedding model's fingerprint.

    Raises Refusal(set_wrong_embedding | unknown_model_size) if one of the models cannot be had.
    """
    from cachetools import LRUCache, cached
    from transformers import AutoTokenizer

    from guideway.workers.engine.model import base_model
    from guideway.workers.engine.text.prompt import PromptLayout
    from guideway.workers.retrieval.embedder import Embedder
    from guideway.workers.retrieval.index import Qdrant
    from guideway.workers.retrieval.indexes import Indexes
    from guideway.workers.retrieval.lookups import Lookups

    logs.adopt_libraries()
    settings, cache = start.settings, Path(start.model_cache)
    embedder = Embedder(settings.embedding, cache, threads=settings.threads)
    folder = base_model.prepare(start.model.source, cache, progress=log.info)
    layout = PromptLayout(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    qdrant = Qdrant(settings.qdrant_url, settings.qdrant_api_key)
    indexes = Indexes(qdrant, settings.index_bytes, lambda: channel.post(Opened()))
    tokens_of = cached(LRUCache(_KEPT_LENGTHS))(layout.context_tokens)
    return Lookups(embedder, indexes, tokens_of, kept_bytes=settings.kept_bytes), embedder.fingerprint


def serve(channel: Channel[ToRetrieval], lookups: Lookups) -> None:
    """Answer what comes until told to stop."""
    while True:
        for message in [channel.receive(), *channel.waiting()]:
            match message:
                case Lookup():
                    lookups.add(message)
                case Opened():
                    continue  # whoever waits for it is looked at below
                case Stop():
                    return
                case StartRetrieval():
                    log.error("started twice; the second start is ignored")
        for answer in lookups.answer():
            channel.send(answer)


def main() -> int:
    """Exit status 0 if told to stop or left alone, 1 if a model cannot be loaded, else a crash."""
    parser = argparse.ArgumentParser(prog="guideway.workers.retrieval.process", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the I/O process")
    channel: Channel[ToRetrieval] = Channel(socket.socket(fileno=parser.parse_args().fd), TO_RETRIEVAL)
    # Ctrl-C goes to the whole group, and SIGTERM from some service managers as well: the I/O process takes it, ends its
    # work and then tells us to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # In the same form as those of the I/O process, whose stderr is ours.
    logs.configure()
    os.nice(_NICE)
    start = channel.receive()
    if isinstance(start, Stop):
        return 0
    if not isinstance(start, StartRetrieval):
        raise ValueError(f"the first message is {type(start).__name__} and must be StartRetrieval")
    began = time.monotonic()
    try:
        lookups, fingerprint = load(start, channel)
    except Refusal as refusal:
        channel.send(Broken(code=refusal.code, message=refusal.message))
        return 1
    channel.send(Ready(fingerprint=fingerprint, load_s=time.monotonic() - began))
    serve(channel, lookups)
    return 0


if __name__ == "__main__":
    sys.exit(main())
