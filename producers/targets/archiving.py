"""Writes archives: rows gather for a while and become one object; whoever brought a row waits until it is written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from guideway.catalogue.archive.archive import Archive, archives
from guideway.catalogue.archive.rows import Row
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.targets import ArchiveRule

log = structlog.get_logger(__name__)

GATHER_S: Final = 15.0
"""A row waits so long for others to share its object."""
_HASTE_S: Final = 0.2
"""And so long where processes have died: a row that waits is taken for what killed them if they die again and again."""
_MOST_ROWS: Final = 256
_MOST_CHARS: Final = 8 * 2**20
"""Of texts and results in one object, about."""
_MOST_WAITING: Final = 512
"""Rows that wait for others in this process, of all endpoints: each holds a slot that a webhook may need."""
_LONGEST_REST_S: Final = 60.0
"""Between attempts at a store that takes nothing."""
SWEEP_S: Final = 3600.0

_Whose = tuple[str, str]
"""(namespace, endpoint)"""


@dataclass
class _Gathering:
    rule: ArchiveRule
    rows: list[Row] = field(default_factory=list)
    chars: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)
    written: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Archiving:
    """`async with Archiving(store) as archiving:` – owner of the rows that are not written yet."""

    def __init__(
        self,
        store: str,
        rule_of: Callable[[str, str], ArchiveRule | None],
        *,
        gather_s: float = GATHER_S,
        sweep_s: float = SWEEP_S,
    ) -> None:
        """rule_of: of (namespace, endpoint), as the catalogue has it now; None: it archives nothing (any more)."""
        self._store, self._rule_of = store, rule_of
        self._gather_s, self._sweep_s = gather_s, sweep_s
        self._gathering: dict[_Whose, _Gathering] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurried = False

    async def __aenter__(self) -> Archiving:
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep archives")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._sweeping, *self._tasks):
            task.cancel()
        await asyncio.gather(self._sweeping, *self._tasks, return_exceptions=True)

    def hurry(self) -> None:
        """From now on nobody waits for others: this process ends."""
        self._hurried = True
        for one in self._gathering.values():
            one.full.set()

    async def add(self, namespace: str, endpoint: str, rule: ArchiveRule, row: Row, *, in_haste: bool = False) -> None:
        """Returns when the row is in the store, however long that takes. in_haste: it waits for few others."""
        whose = (namespace, endpoint)
        gathering = self._gathering.get(whose)
        if gathering is None or gathering.rule != rule:
            gathering = self._gathering[whose] = _Gathering(rule)
            task = asyncio.create_task(self._write(whose, gathering), name=f"archive /{namespace}/{endpoint}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        gathering.rows.append(row)
        gathering.chars += row.chars
        if in_haste:
            asyncio.get_running_loop().call_later(_HASTE_S, gathering.full.set)
        if len(gathering.rows) >= _MOST_ROWS or gathering.chars >= _MOST_CHARS or self._hurried:
            gathering.full.set()
            # The next ones have an object of their own.
            self._gathering.pop(whose, None)
        elif sum(len(one.rows) for one in self._gathering.values()) >= _MOST_WAITING:
            largest = max(self._gathering, key=lambda each: len(self._gathering[each].rows))
            self._gathering.pop(largest).full.set()
        # Others wait for the same: the work of one may be dropped, and must not take theirs along.
        await asyncio.shield(gathering.written)

    async def _write(self, whose: _Whose, gathering: _Gathering) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._gather_s):
                await gathering.full.wait()
        if self._gathering.get(whose) is gathering:
            del self._gathering[whose]
        rest_s = 1.0
        while True:
            try:
                await asyncio.to_thread(_put, Archive(self._store, *whose), gathering)
                break
            except Exception as error:
                # Nothing is lost: the offsets stay, and others of this namespace wait behind it. Stores have errors of
                # their own, and whoever waits for these rows would wait for ever.
                log.error("an archive cannot be written; it is tried again", of=whose, error=_told(error))
            await asyncio.sleep(rest_s)
            rest_s = min(2 * rest_s, _LONGEST_REST_S)
        gathering.written.set_result(None)

    async def _sweep(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._sweep_all()
            except Exception as error:
                log.error("archives cannot be swept; it is tried again", error=repr(error))
            await asyncio.sleep(max(0.0, self._sweep_s - (time.monotonic() - began)))

    async def _sweep_all(self) -> None:
        for one in await asyncio.to_thread(archives, self._store):
            rule = self._rule_of(one.namespace, one.endpoint)
            days = None if rule is None else rule.retention_days
            try:
                await asyncio.to_thread(one.sweep, datetime.now(UTC), days)
            except Exception as error:
                # What is wrong with one keeps the texts of no other for longer than they may be kept.
                log.error("an archive cannot be swept", of=f"/{one.namespace}/{one.endpoint}", error=_told(error))


def _told(error: Exception) -> str:
    """An error for the log: others than these might quote a text."""
    return repr(error) if isinstance(error, OSError | ImportError | Refusal) else type(error).__name__


def _put(archive: Archive, gathering: _Gathering) -> None:
    archive.keep_for(gathering.rule.retention_days)
    archive.write(gathering.rows, gathering.rule.format)
