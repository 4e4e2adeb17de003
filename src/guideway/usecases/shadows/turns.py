"""What takes long and is asked by namespaces of one process: each has one thread at most, and waits for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")
_Turn = tuple[asyncio.AbstractEventLoop, frozenset[str]]
_turns: Final[WeakValueDictionary[_Turn, asyncio.Lock]] = WeakValueDictionary()


async def in_turn(namespaces: Collection[str], do: Callable[[], T]) -> T:
    """What `do` returns or raises, in a thread, when what these namespaces have asked before is done."""
    which = asyncio.get_running_loop(), frozenset(namespaces)
    async with _turns.setdefault(which, asyncio.Lock()):
        return await asyncio.to_thread(do)
