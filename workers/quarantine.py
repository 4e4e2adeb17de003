"""Which requests may be in the engine together, so that the one that kills it is found, and no other is blamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SUSPECTS_TOGETHER: Final = 8
"""Of requests that were in one engine that died. So few have to be tried alone if it dies a second time."""


class Quarantine:
    """A request enters freely at first. After an engine has died with it, it enters in a small group.

    On its last attempt it is alone: no other enters until it has left.
    """

    def __init__(self) -> None:
        self._group = asyncio.Semaphore(SUSPECTS_TOGETHER)
        self._inside = 0
        self._alone = False
        self._want_to_be_alone = 0
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def entered(self, *, suspect: bool, last_chance: bool) -> AsyncIterator[None]:
        """`async with entered(...):` – one attempt in the engine. suspect: an engine has died with the request."""
        if last_chance:
            async with self._by_itself():
                yield
        elif suspect:
            async with self._group, self._among_others():
                yield
        else:
            await self._join()
            try:
                yield
            finally:
                self._leave()

    @asynccontextmanager
    async def _among_others(self) -> AsyncIterator[None]:
        await self._join()
        try:
            yield
        finally:
            self._leave()

    async def _join(self) -> None:
        while self._alone or self._want_to_be_alone:
            await self._change()
        self._inside += 1

    def _leave(self) -> None:
        self._inside -= 1
        self._tell()

    @asynccontextmanager
    async def _by_itself(self) -> AsyncIterator[None]:
        self._want_to_be_alone += 1
        try:
            while self._alone or self._inside:
                await self._change()
            self._alone = True
        finally:
            self._want_to_be_alone -= 1
            self._tell()
        try:
            yield
        finally:
            self._alone = False
            self._tell()

    async def _change(self) -> None:
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        await change

    def _tell(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)
