"""Questions to a retrieval set: what is found in it, and what an endpoint answers from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.reply import Reply
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of, found_set
from guideway.usecases.retrieval import a_qdrant, an_embedder

if TYPE_CHECKING:
    from guideway.training.sets.evaluate import Pair, Searched


async def open_set(settings: Settings, name: str) -> tuple[SetRef, Searched]:
    """The set `NAMESPACE/NAME[@VERSION]`, to be searched as a worker would.

    Raises Refusal as `found_set` does, and of a set that is embedded with another model or is not to be had.
    """
    ref, manifest = found_set(await catalogue_of(settings), name)
    return await asyncio.to_thread(_opened, settings, ref, manifest)


def _opened(settings: Settings, ref: SetRef, manifest: RetrievalSet) -> tuple[SetRef, Searched]:
    embedder = an_embedder(settings)
    from guideway.training.sets.evaluate import Searched

    store = ArtefactStore(settings.store)
    return ref, Searched.of(manifest, str(ref), store, settings.artefact_cache, embedder, a_qdrant(settings))


async def replies(settings: Settings, endpoint: str, pairs: Sequence[Pair]) -> list[Reply]:
    """What an endpoint answers to the questions, in their order. Raises Refusal(deadline_exceeded) after 300 s."""
    async with Client(settings.answering_cluster()) as client:
        slots = asyncio.Semaphore(256)

        async def one(pair: Pair) -> Reply:
            async with slots:
                return await client.submit(endpoint, pair.question, timeout_s=300)

        try:
            return await asyncio.gather(*map(one, pairs))
        except TimeoutError:
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED,
                "no reply within 300 s: are `guideway endpoints` and `guideway worker` running?",
            ) from None
