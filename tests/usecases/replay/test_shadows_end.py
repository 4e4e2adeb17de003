"""The end of a shadow: what is compared where it ended early, and that nothing counts as done before all of it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.usecases.replay.test_live import plan

from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.training.replays.answers import SIDES, Asked, Given
from guideway.usecases.replay import shadow
from guideway.usecases.replay.asking import Watch
from guideway.usecases.replay.folder import Plan, ReplayFolder, Shadowing, add

BETTER = Shadowing(share=1.0, promote="if_better", candidate=1)


def answered(folder: Path, made: Plan, rows: int, *, half: int = 0) -> ReplayFolder:
    """A folder with so many rows that both have answered, and some that only one has."""
    found = ReplayFolder(folder / "shadow")
    found.begin(made, [])
    asked = [Asked(number=n, id=str(n), content="x") for n in range(1, rows + half + 1)]
    found.add_rows(asked)
    with found.writing() as stream:
        for row in asked:
            for side in SIDES if row.number <= rows else SIDES[:1]:
                add(stream, Given(number=row.number, side=side, value="sad", text="sad"))
    return found


async def ended(
    folder: ReplayFolder, made: Plan, early: str, monkeypatch: pytest.MonkeyPatch, refusal: Refusal | None = None
) -> Any:
    """What its result says became of it."""

    async def follow(*_: object, **__: object) -> str:
        return early

    async def apply_made(*_: object) -> list[SimpleNamespace]:
        if refusal is not None:
            raise refusal
        return [SimpleNamespace(version=7)]

    monkeypatch.setattr(shadow, "_follow", follow)
    monkeypatch.setattr(shadow, "apply_made", apply_made)
    settings = Settings(home=folder.path.parent, store=str(folder.path.parent / "store"))
    await shadow.carry_out(settings, folder, made, Watch())
    assert folder.is_finished
    return folder.comparison()


def better(rows: int = 200) -> Plan:
    return msgspec.structs.replace(plan(rows=rows), shadow=BETTER)


async def test_a_candidate_that_nothing_speaks_against_is_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await ended(answered(tmp_path, better(), 200), better(), "", monkeypatch)
    assert (told["rows"], told["outcome"]["promoted"], told["outcome"]["version"]) == (200, True, 7)


async def test_one_that_ended_early_compares_what_both_have_answered_and_promotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await ended(answered(tmp_path, better(), 200, half=3), better(500), "it changed", monkeypatch)
    assert (told["rows"], told["outcome"]["promoted"], told["outcome"]["early"]) == (200, False, "it changed")
    assert told["outcome"]["why"] == "it has ended early"


async def test_one_without_any_answer_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = answered(tmp_path, plan(), 0, half=3)
    with pytest.raises(Refusal, match="it changed, with no row answered: give this command again"):
        await ended(folder, plan(), "it changed", monkeypatch)
    assert folder.plan is None
    folder.begin(plan(), [])
    assert not folder.answers()


async def test_who_may_not_apply_is_told_why_it_was_not_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Refusal(FailureCode.NOT_ALLOWED, "you may not")
    told = await ended(answered(tmp_path, better(), 200), better(), "", monkeypatch, refusal)
    assert (told["outcome"]["promoted"], told["outcome"]["why"]) == (False, "you may not")


async def test_brokers_that_do_not_answer_leave_the_promotion_to_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = answered(tmp_path, better(), 200)
    with pytest.raises(Refusal, match="gone"):
        await ended(folder, better(), "", monkeypatch, Refusal(FailureCode.BROKER_UNREACHABLE, "gone"))
    assert not folder.is_finished
    assert (await ended(folder, better(), "", monkeypatch))["outcome"]["promoted"]


async def test_two_processes_do_not_write_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, going = answered(tmp_path, plan(), 1), asyncio.Event()

    async def follow(*_: object, **__: object) -> str:
        going.set()
        await asyncio.sleep(3600)
        return ""

    monkeypatch.setattr(shadow, "_follow", follow)
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"))
    first = asyncio.create_task(shadow.carry_out(settings, folder, plan(), Watch()))
    await going.wait()
    with pytest.raises(Refusal, match="another process carries out the shadow"):
        await shadow.carry_out(settings, folder, plan(), Watch())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
