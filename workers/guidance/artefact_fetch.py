"""Fetches artefacts from the store to this machine's disk: each one once for all requests, and keeps it while used."""

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
"""Copies of one artefact that a request tries. If the disk alters each copy, another fetch does not help."""

log = structlog.get_logger(__name__)


class ArtefactFetch:
    """Owns the fetches under way, and knows which artefacts running requests use: these stay on the disk."""

    def __init__(self, store: ArtefactStore, cache: ArtefactCache) -> None:
        self._store = store
        self._cache = cache
        self._users: Counter[str] = Counter()
        self._fetched: dict[str, asyncio.Task[Path]] = {}
        self._renewing: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def held(self, digest: str, what: str) -> AsyncIterator[Path]:
        """A context with the folder of a checked artefact, which stays on the disk until the context ends.

        what: names the artefact in messages. Raises: Refusal `guidance_missing` or `guidance_damaged`.
        """
        self._users[digest] += 1
        try:
            if (task := self._fetched.get(digest)) is None:
                task = asyncio.create_task(asyncio.to_thread(self._store.fetch, digest, self._cache))
                self._fetched[digest] = task
                task.add_done_callback(lambda task: self._forget_failed(digest, task))
            with _said_of(what):
                # Shielded: if one waiting request is cancelled, the fetch goes on for the others.
                folder = await asyncio.shield(task)
            yield folder
        finally:
            self._users[digest] -= 1
            if not self._users[digest]:
                del self._users[digest]
                if (last := self._fetched.pop(digest, None)) is not None:
                    last.add_done_callback(lambda task: self._let_go(digest, task))

    async def with_good_copies(self, use: Callable[[], Awaitable[T]]) -> T:
        """The result of `use`, which uses held artefacts. If `use` raises Altered, fetch the copy again and call it
        again.

        Raises: what `use` raises; Refusal `guidance_missing` if the copy cannot be fetched; Refusal `guidance_damaged`
        if the bytes in the store are wrong.
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
        """Forget a fetch that failed, so that the next request tries again."""
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
