"""Artefacts from the store onto this machine's disk, each fetched once, however many ask."""

from __future__ import annotations

import asyncio
from pathlib import Path

from guideway.catalogue.artefacts import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal


class ArtefactFetch:
    """Owns the fetches under way."""

    def __init__(self, store: ArtefactStore, cache: Path) -> None:
        self._store = store
        self._cache = cache
        self._fetching: dict[str, asyncio.Task[Path]] = {}

    async def folder(self, digest: str, what: str) -> Path:
        """The artefact of `what`, as a checked folder. Raises Refusal(guidance_missing | guidance_damaged)."""
        task = self._fetching.get(digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._store.fetch, digest, self._cache))
            self._fetching[digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(digest, None))
        try:
            # Shielded: one waiting request that is cancelled must not end the fetch for the others.
            return await asyncio.shield(task)
        except Refusal as refusal:
            raise Refusal(refusal.code, f"{what}: {refusal.message}") from None
        except OSError as error:
            raise Refusal(
                FailureCode.GUIDANCE_MISSING,
                f"{what}: it cannot be kept on the worker's disk ({type(error).__name__}): see that there is room",
            ) from None
