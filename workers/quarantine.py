"""Who may be in the engine together, so that one request that kills it is found without condemning its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SUSPECTS_TOGETHER: Final = 8
"""After their first death; so few are left to be tried alone, one after the other, after their second."""


class Quarantine:
    """Requests that were in no engine that died come and go freely, those that were in one come in small groups.

    Before the death that would condemn it, a request is alone: nobody new enters until it is out again.
    """

    def __init__(self) -> None:
        self._group = asyncio.Semaphore(SUSPECTS_TOGETHER)
        self._inside = 0
        self._alone = False
        self._want_to_be_alone = 0
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def entered(self, *, suspect: bool, last_chance: bool) -> AsyncIterator[None]:
        """In the engine, for the length of one attempt."""
        if last_chance:
            async with self._by_itself():
                yield
        elif suspect:
            async with self._group, self._among_others():
                yield
        else:
            async with self._among_others():
                yield

    @asynccontextmanager
    async def _among_others(self) -> AsyncIterator[None]:
        while self._alone or self._want_to_be_alone:
            await self._change()
        self._inside += 1
        try:
            yield
        finally:
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
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)
