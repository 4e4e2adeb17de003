"""Fetches artefacts from the store to this machine's disk: each one once for all requests, and keeps it while used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import Altered
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal

T = TypeVar("T")
_Owned = tuple[str, str]
"""(owner, digest)"""
_COPIES: Final = 3
"""Copies of one artefact that a request tries. If the disk alters each copy, another fetch does not help."""

log = structlog.get_logger(__name__)


class ArtefactFetch:
    """Owns the fetches under way, and knows which artefacts running requests use: these stay on the disk."""

    def __init__(self, store: ArtefactStore, cache: ArtefactCache) -> None:
        self._store = store
        self._cache = cache
        self._users: Counter[_Owned] = Counter()
        self._fetched: dict[_Owned, asyncio.Task[Path]] = {}
        self._renewing: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def held(self, owner: str, digest: str, what: str) -> AsyncIterator[Path]:
        """A context with the folder of a checked artefact, which stays on the disk until the context ends.

        owner: the namespace in whose part of the store it must be, whatever is on this machine's disk already. what:
        names the artefact in messages. Raises: Refusal `guidance_missing` or `guidance_damaged`.
        """
        owned = (owner, digest)
        self._users[owned] += 1
        try:
            if (task := self._fetched.get(owned)) is None:
                task = asyncio.create_task(asyncio.to_thread(self._store.of(owner).fetch, digest, self._cache))
                self._fetched[owned] = task
                task.add_done_callback(lambda task: self._forget_failed(owned, task))
            with _said_of(what):
                # Shielded: if one waiting request is cancelled, the fetch goes on for the others.
                folder = await asyncio.shield(task)
            yield folder
        finally:
            self._users[owned] -= 1
            if not self._users[owned]:
                del self._users[owned]
                if (last := self._fetched.pop(owned, None)) is not None:
                    last.add_done_callback(lambda task: self._let_go(owned, task))

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
            # Whose copy has changed is not told: each that is held is looked at.
            owners = [owner for owner, held in self._users if held == digest]
            task = asyncio.create_task(asyncio.to_thread(self._renew_of, owners, digest))
            self._renewing[digest] = task
            task.add_done_callback(lambda _: self._renewing.pop(digest, None))
        with _said_of(f"artefact {digest[:19]}…"):
            await asyncio.shield(task)

    def _renew_of(self, owners: Sequence[str], digest: str) -> None:
        for owner in owners:
            self._store.of(owner).renew(digest, self._cache)

    def _forget_failed(self, owned: _Owned, task: asyncio.Task[Path]) -> None:
        """Forget a fetch that failed, so that the next request tries again."""
        if (task.cancelled() or task.exception() is not None) and self._fetched.get(owned) is task:
            del self._fetched[owned]

    def _let_go(self, owned: _Owned, task: asyncio.Task[Path]) -> None:
        owner, digest = owned
        if not task.cancelled() and task.exception() is None:
            self._cache.let_go(self._store.of(owner).name_in_cache(digest))


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
