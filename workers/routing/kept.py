"""What is made once for many who need it, and kept while there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

K = TypeVar("K")
T = TypeVar("T")


class Kept(Generic[K, T]):
    """Owner of the values that are kept, and of the tasks that make others. Not thread-safe."""

    def __init__(self, values: LRUCache[K, T]) -> None:
        """values: empty; it bounds how much is kept."""
        self._values = values
        self._making: dict[K, asyncio.Task[T]] = {}

    async def get(self, key: K, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The value; if it is not there, `make` makes it, and all who ask meanwhile wait for the same.

        Raises what `make` raises; then the next who asks has it made again.
        """
        if key in self._values:
            return self._values[key]
        if (task := self._making.get(key)) is None:
            # In a task of its own: if one who waits is late or cancelled, the others still get the value.
            task = self._making[key] = asyncio.create_task(make())
            task.add_done_callback(lambda done: self._made(key, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Cancel what is being made."""
        tasks = [*self._making.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _made(self, key: K, done: asyncio.Task[T]) -> None:
        del self._making[key]
        if not done.cancelled() and done.exception() is None:
            value = done.result()
            if self._values.getsizeof(value) <= self._values.maxsize:
                self._values[key] = value
