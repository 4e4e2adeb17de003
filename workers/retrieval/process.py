"""The retrieval process: `python -m guideway.workers.retrieval.process --fd N`; socket N brings its work.

It is a process apart from the engine's, so that a lookup never delays a step of the model. All lookups that wait are
done together; those that come meanwhile are the next batch. Logs go to stderr and contain no texts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from guideway import logs
from guideway.workers.messages.every_child import Stop
from guideway.workers.messages.to_retrieval import TO_RETRIEVAL, Embed, Lookup, Opened, StartRetrieval, ToRetrieval
from guideway.workers.processes.channel import Channel
from guideway.workers.processes.child_main import Loaded, child_main

if TYPE_CHECKING:
    from guideway.workers.retrieval.lookups import Lookups

_NICE: Final = 5
"""The engine goes first if both need the same core: a late lookup costs less than a late step."""
_KEPT_LENGTHS: Final = 20_000

log = structlog.get_logger()


def load(start: StartRetrieval, channel: Channel[ToRetrieval]) -> Loaded[Lookups]:
    """The lookups, and the fingerprint of the embedding model.

    Raises: Refusal `set_wrong_embedding` or `unknown_model_size` if one of the models cannot be loaded.
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
    return Loaded(Lookups(embedder, indexes, tokens_of, kept_bytes=settings.kept_bytes), embedder.fingerprint)


def serve(channel: Channel[ToRetrieval], lookups: Lookups) -> None:
    """Answer lookups and embed texts until `Stop` comes."""
    while True:
        embeds: list[Embed] = []
        for message in [channel.receive(), *channel.waiting()]:
            match message:
                case Lookup():
                    lookups.add(message)
                case Embed():
                    embeds.append(message)
                case Opened():
                    continue  # `answer` below looks at the lookups that wait for it
                case Stop():
                    return
                case StartRetrieval():
                    log.error("started twice; the second start is ignored")
        for answer in lookups.answer():
            channel.send(answer)
        for embedded in lookups.embedded(embeds):
            channel.send(embedded)


def main() -> int:
    """Exit status: 0 after `Stop` or when the socket closes; 1 if a model cannot be loaded; any other is a crash."""
    return child_main(
        "guideway.workers.retrieval.process",
        TO_RETRIEVAL,
        StartRetrieval,
        prepare=_prepare,
        load=load,
        serve=serve,
    )


def _prepare() -> None:
    os.nice(_NICE)


if __name__ == "__main__":
    sys.exit(main())
