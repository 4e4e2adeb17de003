"""Artefacts from the store onto this machine's disk: each fetched once, however many ask, and kept while it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import structlog

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import Altered
from guideway.catalogue.artefacts.store import ArtefactStore, cache_name
from guideway.schemas.failures import FailureCode, Refusal

T = TypeVar("T")
_COPIES: Final = 3
"""Of one artefact that a request tries: what the disk alters again and again is not mended by fetching."""

log = structlog.get_logger(__name__)


class ArtefactFetch:
    """Owns the fetches under way, and which artefacts the requests in flight use: these stay on the disk."""

    def __init__(self, store: ArtefactStore, cache: ArtefactCache) -> None:
        self._store = store
        self._cache = cache
        self._users: Counter[str] = Counter()
        self._fetched: dict[str, asyncio.Task[Path]] = {}
        self._renewing: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def held(self, digest: str, what: str) -> AsyncIterator[Path]:
        """The artefact of `what`, as a checked folder, which stays while inside.

        Raises Refusal(guidance_missing | guidance_damaged).
        """
        self._users[digest] += 1
        try:
            if (task := self._fetched.get(digest)) is None:
                task = asyncio.create_task(asyncio.to_thread(self._store.fetch, digest, self._cache))
                self._fetched[digest] = task
                task.add_done_callback(lambda task: self._forget_failed(digest, task))
            with _said_of(what):
                # Shielded: one waiting request that is cancelled must not end the fetch for the others.
                folder = await asyncio.shield(task)
            yield folder
        finally:
            self._users[digest] -= 1
            if not self._users[digest]:
                del self._users[digest]
                if (last := self._fetched.pop(digest, None)) is not None:
                    last.add_done_callback(lambda task: self._let_go(digest, task))

    async def with_good_copies(self, use: Callable[[], Awaitable[T]]) -> T:
        """What `use` comes to, of artefacts that are held; where it finds a copy altered, it is fetched again.

        Raises what `use` raises; Refusal(guidance_missing) where fetching does not help, guidance_damaged where the
        store's own bytes are wrong.
        """
        for _ in range(_COPIES - 1):
            try:
                return await use()
            except Altered as altered:
                log.warning("a cached artefact is not what it was; it is fetched again", digest=altered.digest)
                await self._renew(altered.digest)
        return await use()

    async def _renew(self, digest: str) -> None:
        task = self._renewing.get(digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._store.renew, digest, self._cache))
            self._renewing[digest] = task
            task.add_done_callback(lambda _: self._renewing.pop(digest, None))
        with _said_of(f"artefact {digest[:19]}…"):
            await asyncio.shield(task)

    def _forget_failed(self, digest: str, task: asyncio.Task[Path]) -> None:
        """Whoever comes next tries again."""
        if (task.cancelled() or task.exception() is not None) and self._fetched.get(digest) is task:
            del self._fetched[digest]

    def _let_go(self, digest: str, task: asyncio.Task[Path]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._cache.let_go(cache_name(digest))


@contextlib.contextmanager
def _said_of(what: str) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{what}: {refusal.message}") from None
    except OSError as error:
        raise Refusal(
            FailureCode.GUIDANCE_MISSING,
            f"{what}: it cannot be kept on the worker's disk ({type(error).__name__}): see that there is room",
        ) from None
