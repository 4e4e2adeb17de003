"""One question for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedQuestion(Generic[T]):
    """Whoever asks while it is under way shares the next: the one before may have missed what is asked for."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked = self._answered = 0
        """Questions begun so far, and the last that was answered."""
        self._answer: T

    async def answer(self) -> T:
        """What a question found that was begun after this call. Raises what the question raises."""
        before = self._asked
        async with self._asking:
            if self._answered <= before:
                self._asked = number = self._asked + 1
                self._answer = await self._ask()
                self._answered = number
            return self._answer
