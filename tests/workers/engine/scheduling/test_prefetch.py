"""Guidance is read while the rows that are there run on; what is wrong with it concerns those that asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run
from tests.workers.engine.scheduling.conftest import Disk

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance.lora import Lora
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, FromEngine, Progress
from guideway.workers.messages.to_engine import Admit


@pytest.fixture
def running(make_admit: MakeAdmit) -> Admit:
    """A hundred steps or more."""
    return make_admit("running", max_tokens=200, output=Regex("[a-z]{100}"))


def until(engine: Engine, is_so: Callable[[], bool], messages: list[FromEngine]) -> None:
    """Let the engine run until something is so, which it is before the rows have ended."""
    while not is_so():
        assert engine.has_work
        messages += engine.step(1000.0)


def tokens(engine: Engine) -> int:
    return len(engine._runner.rows[0].token_ids)


def test_rows_run_on_while_guidance_is_read_once_for_all_who_ask(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, running: Admit, disk: Disk
) -> None:
    engine, lora = make_engine(reader_threads=1), make_lora("a/lora@1")
    guided = [make_admit(f"guided {i}", artefacts=[lora]) for i in range(3)]
    engine.add(running)
    messages = list(engine.step(1000.0))
    for admit in guided:
        engine.add(admit)
    until(engine, lambda: tokens(engine) == 20, messages)
    assert len(engine._runner.rows) == 1
    assert not ends(messages)
    disk.may_read.set()
    found = ends(messages + run(engine))
    assert disk.count == 1
    for admit in (running, *guided):
        assert ends(run(make_engine(), [admit]))[admit.id] == found[admit.id]


def test_whoever_waits_for_guidance_can_be_cancelled_and_can_be_late(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, running: Admit, disk: Disk
) -> None:
    engine, lora = make_engine(reader_threads=1), make_lora("a/lora@1")
    late, cancelled = make_admit(deadline_ms=1_000_500, artefacts=[lora]), make_admit(artefacts=[lora])
    engine.add(running)
    messages = list(engine.step(1000.0))
    for admit in (late, cancelled):
        engine.add(admit)
    engine.cancel(cancelled.id)
    messages += engine.step(1000.4)
    messages += engine.step(1000.6)
    codes = {id_: end.code for id_, end in ends(messages).items() if isinstance(end, Refused)}
    assert codes == {cancelled.id: FailureCode.CANCELLED, late.id: FailureCode.DEADLINE_EXCEEDED}
    disk.may_read.set()
    again = make_admit("again", artefacts=[lora])
    assert isinstance(ends(run(engine, [again]))[again.id], Finished)
    assert disk.count == 1
    assert engine._ahead.digests == set()


def test_guidance_that_is_damaged_refuses_its_requests_while_the_others_run_on(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, running: Admit
) -> None:
    engine, damaged = make_engine(reader_threads=1), make_lora("a/damaged@1")
    (Path(damaged.folder) / "adapter_model.safetensors").write_bytes(b"no tensors")
    asking = [make_admit(artefacts=[make_lora("a/fine@1"), damaged], samples=2) for _ in range(2)]
    found = ends(run(engine, [running, *asking]))
    engine.add(running)
    messages = list(engine.step(1000.0))
    for admit in asking:
        engine.add(admit)
    assert ends(messages + run(engine)) == found
    assert isinstance(found[running.id], Finished)
    for admit in asking:
        end = found[admit.id]
        assert isinstance(end, Refused)
        assert (end.code, "a/damaged@1 is refused" in end.message) == (FailureCode.GUIDANCE_DAMAGED, True)


def test_what_the_next_rows_need_is_read_before_there_is_a_seat(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, running: Admit
) -> None:
    """It stays in memory until they are seated, though nothing fits the budget."""
    engine = make_engine(guidance_bytes=0, max_rows=1)
    guided = [make_admit(f"{i}", artefacts=[make_lora(f"a/lora{i}@1")]) for i in range(6)]
    engine.add(running)
    messages = list(engine.step(1000.0))
    for admit in guided:
        engine.add(admit)
    messages += engine.step(1000.0)
    assert engine._scheduler.waiting == 6
    first_four = {admit.artefacts[0].digest for admit in guided[:4]}
    assert engine._ahead.digests == first_four
    messages += engine.step(1000.0)
    assert set(engine._guidance.digests) == first_four
    found = ends(messages + run(engine))
    assert all(isinstance(end, Finished) for end in found.values())
    assert engine._guidance.nbytes == 0


def steps_until_ended(engine: Engine, most: int = 2000) -> list[FromEngine]:
    messages: list[FromEngine] = []
    for _ in range(most):
        if not engine.has_work:
            return messages
        messages += engine.step(1000.0)
    raise AssertionError("the engine does not come to an end")


def test_guidance_in_memory_costs_no_step(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    """A row that nothing was begun for is seated in the step in which its request comes."""
    engine, lora = make_engine(reader_threads=1), make_lora("a/lora@1")
    engine.add(make_admit(artefacts=[lora]))
    steps_until_ended(engine)
    again = make_admit("again", artefacts=[lora])
    engine.add(again)
    engine.step(1000.0)
    assert [row.id for row in engine._runner.rows] == [again.id]


def test_to_look_whether_rows_are_ready_starts_no_reading(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, running: Admit, disk: Disk
) -> None:
    engine, lora = make_engine(guidance_bytes=0, max_rows=1, reader_threads=1), make_lora("a/lora@1")
    disk.may_read.set()
    engine.add(running)
    engine.step(1000.0)
    engine.add(make_admit("guided", artefacts=[lora]))
    until(engine, lambda: engine._scheduler.waiting == 1, [])
    (row,) = engine._scheduler.upcoming(1)
    until(engine, lambda: row in engine._ahead.ready_rows, [])
    count = disk.count
    engine._ahead.drop(row)
    engine._guidance.keep_to_budget([])
    assert [row in engine._ahead.ready_rows for _ in range(3)] == [False] * 3
    assert (disk.count, engine._ahead.missing) == (count, set())
    engine._ahead.begin(row, row.admit.artefacts)
    assert len(engine._ahead.missing) + (disk.count - count) >= 1
    assert isinstance(ends(steps_until_ended(engine))[row.id], Finished)


def test_guidance_that_is_gone_when_it_is_read_again_refuses_its_row(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, running: Admit
) -> None:
    """What fails ahead of a row's turn is told when the turn comes, and the others come all the same."""
    engine, lora = make_engine(guidance_bytes=0, max_rows=1, reader_threads=1), make_lora("a/lora@1")
    gone, other = make_admit("gone", artefacts=[lora]), make_admit("other", artefacts=[make_lora("a/other@1")])
    engine.add(running)
    messages = list(engine.step(1000.0))
    engine.add(gone)
    until(engine, lambda: engine._scheduler.waiting == 1, messages)
    (row,) = engine._scheduler.upcoming(1)
    engine._ahead.drop(row)
    (Path(lora.folder) / "adapter_model.safetensors").unlink()
    engine._guidance.keep_to_budget([])
    engine.add(other)
    found = ends(messages + steps_until_ended(engine))
    end = found[gone.id]
    assert isinstance(end, Refused)
    assert end.code is FailureCode.GUIDANCE_DAMAGED
    assert isinstance(found[other.id], Finished)


def test_guidance_that_is_read_for_long_holds_up_nobody_where_nothing_runs(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, disk: Disk
) -> None:
    """An idle engine gets one whose guidance lies on a slow disk, and then others: these run, and it is not silent."""
    engine = make_engine(reader_threads=1)
    slow, late = make_admit("slow", artefacts=[make_lora("a/slow@1")]), make_admit("late", deadline_ms=1_000_500)
    engine.add(slow)
    messages = [*engine.step(1000.0), *engine.step(1002.0)]
    assert sum(isinstance(message, Progress) for message in messages) == 2, "it is alive"
    plain = make_admit("plain")
    engine.add(plain)
    while plain.id not in ends(messages):
        messages += engine.step(1003.0)
    assert engine.has_work
    engine.add(late)
    engine.cancel(slow.id)
    messages += engine.step(1004.0)
    assert {id_ for id_, end in ends(messages).items() if isinstance(end, Refused)} == {late.id, slow.id}
    assert not engine.has_work


@pytest.mark.parametrize("reader_threads", [0, 1])
def test_guidance_at_which_a_library_panics_refuses_its_request_only(
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    make_lora: MakeArtefact,
    monkeypatch: pytest.MonkeyPatch,
    reader_threads: int,
) -> None:
    class Panic(BaseException):
        """As of a library in Rust: no Exception."""

    def load(*_: object) -> Lora:
        raise Panic

    monkeypatch.setattr(Lora, "load", load)
    engine = make_engine(reader_threads=reader_threads)
    bad, good = make_admit(artefacts=[make_lora("a/lora@1")]), make_admit()
    found = ends(run(engine, [bad, good]))
    refused = found[bad.id]
    assert isinstance(refused, Refused)
    assert refused.code is FailureCode.INTERNAL_ERROR
    assert isinstance(found[good.id], Finished)
