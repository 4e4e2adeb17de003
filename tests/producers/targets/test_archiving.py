"""Rows that wait for their archive: whatever a store raises, nobody waits for ever, and no slot for long."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from guideway.catalogue.archive.archive import Archive, archives
from guideway.catalogue.archive.rows import Row
from guideway.producers.targets import archiving as module
from guideway.producers.targets.archiving import Archiving
from guideway.schemas.kinds.targets import ArchiveRule

RULE = ArchiveRule()


def row(number: int, days_ago: int = 0) -> Row:
    """What is older than its archive keeps is swept as soon as it is there."""
    at_ms = time.time_ns() // 10**6 - days_ago * 24 * 3600 * 1000
    return Row(row=f"r{number}", id=f"id{number}", at_ms=at_ms, endpoint_version=1, text="hello")


async def test_a_store_with_errors_of_its_own_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = Archive.write, [RuntimeError("429")]

    def fails_once(self: Archive, *given: object) -> None:
        if failures:
            raise failures.pop()
        write(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Archive, "write", fails_once)
    async with asyncio.timeout(20), Archiving(str(tmp_path), lambda *_: None, gather_s=0.01) as archiving:
        await archiving.add("shop", "mood", RULE, row(1))
    assert [one.id for one in Archive(str(tmp_path), "shop", "mood").rows()] == ["id1"]


async def test_rows_of_many_endpoints_do_not_wait_while_they_fill_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 4)
    async with asyncio.timeout(20), Archiving(str(tmp_path), lambda *_: None, gather_s=3600) as archiving:
        adding = [
            asyncio.create_task(archiving.add("shop", f"e{number // 2}", RULE, row(number))) for number in range(6)
        ]
        await asyncio.wait(adding, return_when="FIRST_COMPLETED")
        archiving.hurry()
        await asyncio.gather(*adding)
    assert sum(len(list(one.rows())) for one in archives(str(tmp_path))) == 6


async def test_what_is_wrong_with_one_archive_keeps_no_other_from_being_swept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Archive(str(tmp_path), "shop", name).write([row(1, days_ago=300)], "jsonl")
    kept = tmp_path / "archive.v1" / "shop" / "a" / "kept.json"
    kept.write_bytes(b"nonsense")
    async with Archiving(str(tmp_path), lambda _, name: None if name == "a" else RULE) as archiving:
        await archiving._sweep_all()
    assert not Archive(str(tmp_path), "shop", "b").objects()


async def test_rows_do_not_wait_for_others_where_processes_have_died(tmp_path: Path) -> None:
    """A process that is killed every few seconds would never finish them, and they would be taken for what kills it."""
    async with asyncio.timeout(20), Archiving(str(tmp_path), lambda *_: None, gather_s=3600) as archiving:
        waits = asyncio.create_task(archiving.add("shop", "mood", RULE, row(1)))
        await asyncio.sleep(0)
        await archiving.add("shop", "mood", RULE, row(2), in_haste=True)
        await waits
    assert len(Archive(str(tmp_path), "shop", "mood").objects()) == 1
