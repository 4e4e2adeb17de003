"""Who reads a file now: it takes the processor, on which all callers wait."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SMALL_BYTES: Final = 2**20
"""As it is stored. Such a file has some thousand rows, read in less than a second, unless it is compressed."""
_SWITCH_S: Final = 0.0005
"""While files are read, whoever waits for the interpreter has it after so long; else after ten times that."""


class Turns:
    """One large file at a time, of all namespaces, and one small one beside it, for which a large one takes minutes."""

    _readers, _usual_s = 0, 0.0
    """Of the whole process, as the interval of switching is."""

    def __init__(self) -> None:
        self._small, self._large = asyncio.Lock(), asyncio.Lock()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """While this lasts, a file of so many bytes may be read, in a thread."""
        async with self._small if size <= SMALL_BYTES else self._large:
            if not Turns._readers:
                Turns._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(_SWITCH_S)
            Turns._readers += 1
            try:
                yield
            finally:
                Turns._readers -= 1
                if not Turns._readers:
                    sys.setswitchinterval(Turns._usual_s)
