"""Who is in the engine together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from guideway.workers.quarantine import SUSPECTS_TOGETHER, Quarantine


class Visits:
    """Requests that stay in the engine until they are let go."""

    def __init__(self) -> None:
        self._quarantine = Quarantine()
        self.inside: set[str] = set()
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, name: str, *, suspect: bool = False, last_chance: bool = False) -> None:
        self._leave[name] = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._visit(name, suspect, last_chance)))
        await self.settle()

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await self.settle()

    async def cancel(self, number: int) -> None:
        self._tasks[number].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _visit(self, name: str, suspect: bool, last_chance: bool) -> None:
        async with self._quarantine.entered(suspect=suspect, last_chance=last_chance):
            self.inside.add(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.discard(name)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def visits() -> AsyncIterator[Visits]:
    made = Visits()
    try:
        yield made
    finally:
        await made.end()


async def test_the_unsuspected_come_and_go_freely() -> None:
    async with visits() as engine:
        for name in "abc":
            await engine.come(name)
        assert engine.inside == set("abc")


async def test_suspects_come_in_small_groups_beside_the_others() -> None:
    async with visits() as engine:
        for number in range(SUSPECTS_TOGETHER + 3):
            await engine.come(f"s{number}", suspect=True)
        await engine.come("fresh")
        assert len(engine.inside) == SUSPECTS_TOGETHER + 1
        await engine.go("s0")
        assert len(engine.inside) == SUSPECTS_TOGETHER + 1, "the next suspect took its place"


async def test_a_last_chance_is_had_alone() -> None:
    async with visits() as engine:
        await engine.come("fresh")
        await engine.come("last", suspect=True, last_chance=True)
        await engine.come("later")
        assert engine.inside == {"fresh"}, "it waits for those inside, and nobody new overtakes it"
        await engine.go("fresh")
        assert engine.inside == {"last"}
        await engine.go("last")
        assert engine.inside == {"later"}


async def test_last_chances_come_one_after_the_other_before_the_others() -> None:
    async with visits() as engine:
        await engine.come("one", last_chance=True)
        await engine.come("two", last_chance=True)
        await engine.come("fresh")
        assert engine.inside == {"one"}
        await engine.go("one")
        assert engine.inside == {"two"}
        await engine.go("two")
        assert engine.inside == {"fresh"}


async def test_who_is_cancelled_while_it_waits_or_while_it_is_alone_holds_nobody_up() -> None:
    async with visits() as engine:
        await engine.come("fresh")
        await engine.come("last", last_chance=True)
        await engine.come("later")
        await engine.cancel(1)
        assert engine.inside == {"fresh", "later"}
        await engine.come("alone", last_chance=True)
        await engine.go("fresh")
        await engine.go("later")
        assert engine.inside == {"alone"}
        await engine.come("after")
        await engine.cancel(3)
        assert engine.inside == {"after"}
