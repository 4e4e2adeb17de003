"""Routers' examples are embedded when their manifests are seen, so that no event waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import structlog

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.router import Router

log = structlog.get_logger(__name__)

MOST_EXAMPLES: Final = 6000
"""Of all routers together: about half of what is kept (`routing._LEARNT_BYTES`). Those beyond wait for an event."""
_LOOK_S: Final = 1.0

Learn = Callable[[Router, int], Awaitable[None]]


def to_learn(catalogue: Catalogue, size: str, most: int = MOST_EXAMPLES) -> Iterator[tuple[Router, int]]:
    """(router, version) of the routers that ask workers of this size and have examples, as far as there is room."""
    for identity in catalogue.identities("router"):
        latest = catalogue.latest(identity)
        if latest is None or not isinstance(router := latest[1], Router) or router.model_size != size:
            continue
        if (examples := router.examples) is not None:
            count = len(examples.none) + sum(map(len, examples.texts.values()))
            if count <= most:
                most -= count
                yield router, latest[0]


class LearningAhead:
    """`async with LearningAhead(...):` – while this lasts, each new version of a router is learnt, one at a time.

    At most half of the time: whoever changes a router again and again keeps the embedding of others from nothing.
    """

    def __init__(self, catalogue: Catalogue, size: str, learn: Learn, *, look_s: float = _LOOK_S) -> None:
        self._catalogue, self._size, self._learn, self._look_s = catalogue, size, learn, look_s
        self._done: dict[str, int] = {}
        """Namespace → the version of its router that was learnt, or cannot be."""

    async def __aenter__(self) -> LearningAhead:
        self._task = asyncio.create_task(self._run(), name="learn routers ahead")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        seen = -1
        while True:
            if self._catalogue.changes != seen:
                seen = self._catalogue.changes
                for router, version in [*to_learn(self._catalogue, self._size)]:
                    await self._one(router, version)
            await asyncio.sleep(self._look_s)

    async def _one(self, router: Router, version: int) -> None:
        if self._done.get(router.namespace) == version:
            return
        self._done[router.namespace] = version
        began = asyncio.get_running_loop().time()
        try:
            await self._learn(router, version)
        except Refusal as refusal:
            # Its events are told the same.
            log.warning("a router's examples cannot be learnt", namespace=router.namespace, why=refusal.message)
        except Exception as error:
            log.error("a router's examples were not learnt", namespace=router.namespace, error=repr(error))
        await asyncio.sleep(asyncio.get_running_loop().time() - began)
