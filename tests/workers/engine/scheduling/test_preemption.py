"""Rows that have to wait again, at any step: each generates what it generates alone, and nothing is left behind."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run

from guideway.schemas.failures import FailureCode
from guideway.schemas.names.topics import Lane
from guideway.schemas.output import Choice, Json, Regex
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.scheduler import Scheduler
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import BatchReport, Progress
from guideway.workers.messages.to_engine import Admit

TOKEN_BYTES = 512
"""Of the tiny model: 2 layers, keys and values, 2 prefixes of 16 float32."""


@pytest.fixture
def admits(
    make_admit: MakeAdmit,
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_prefix: MakeArtefact,
    make_soft_prompt: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> list[Admit]:
    everything = [
        make_soft_prompt("a/soft@1"),
        make_lora("a/lora@1"),
        make_prefix("a/prefix@1"),
        make_ia3("a/ia3@1"),
        make_inserted_layer("a/inserted@1"),
    ]
    schema = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}
    return [
        make_admit("plain"),
        make_admit("everything, of each kind", artefacts=everything, instruction="Answer as a clerk would."),
        make_admit("drawn", temperature=1.0, seed=4, samples=2, artefacts=everything[:2]),
        make_admit("form", output=Regex("[a-z]{6}-[0-9]{3,9}"), temperature=1.0, namespace="b"),
        make_admit("json", output=Json(schema), max_tokens=12, namespace="b", artefacts=everything[2:3]),
        make_admit("choice", output=Choice(["true no", "true yes"]), namespace="c", artefacts=everything[3:]),
    ]


@pytest.mark.parametrize("prefix_cache_bytes", [0, 2**20])
def test_preemption_at_every_step_changes_nothing(
    make_engine: MakeEngine, admits: list[Admit], monkeypatch: pytest.MonkeyPatch, prefix_cache_bytes: int
) -> None:
    alone = ends(run(make_engine(), admits))
    steps = itertools.count()
    when = 0

    def preempt(scheduler: Scheduler) -> list[Row]:
        """At step `when`, all but the oldest; one step later the youngest; then as it may come."""
        step = next(steps)
        count = {when: len(scheduler._running) - 1, when + 1: 1}.get(step, 0)
        rows = list(scheduler._running)[1:][::-1][:count]
        for row in rows:
            del scheduler._running[row]
            scheduler._waiting.put_back(row)
        return rows

    monkeypatch.setattr(Scheduler, "make_room", preempt)
    engine = make_engine(max_step_tokens=50, prefix_cache_bytes=prefix_cache_bytes)
    for when in range(1, 24):  # noqa: B007 - `preempt` reads it
        steps = itertools.count()
        assert ends(run(engine, admits)) == alone
        assert engine._runner._kv.is_empty
    assert engine._statistics.preempted > 30


def test_memory_is_bounded_and_nothing_is_lost(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    """Rows that fit when they come and outgrow the room together."""
    admits = [
        make_admit("x" * (5 + 9 * i), max_tokens=120, output=Regex("[a-z]{100,110}"), namespace="abc"[i % 3])
        for i in range(6)
    ]
    alone = ends(run(make_engine(), admits))
    engine = make_engine(kv_bytes=TOKEN_BYTES * 400)
    assert engine._runner.token_bytes == TOKEN_BYTES
    messages = run(engine, admits)
    assert ends(messages) == alone
    assert engine._runner._kv.nbytes <= TOKEN_BYTES * 400
    progress = messages[-1]
    assert isinstance(progress, Progress)
    assert progress.preempted == engine._statistics.preempted > 2
    assert max(len(m.rows) for m in messages if isinstance(m, BatchReport)) > 2


def test_a_text_that_does_not_fit_alone_is_refused(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    engine = make_engine(kv_bytes=TOKEN_BYTES * 100)
    over, fits = make_admit("x" * 100), make_admit("y" * 10)
    found = ends(run(engine, [over, fits]))
    end = found[over.id]
    assert isinstance(end, Refused)
    assert end.code == FailureCode.TEXT_TOO_LONG
    assert "more than the 96" in end.message, "whole pages of 16 tokens"
    assert found[fits.id] == ends(run(make_engine(), [fits]))[fits.id]


def test_a_preempted_row_can_be_cancelled_and_can_be_late(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    form = Regex("[a-z]{200}")
    admits = [
        make_admit(f"{i}", max_tokens=200, output=form, deadline_ms=1_002_000 if i == 3 else None) for i in range(4)
    ]
    engine = make_engine(kv_bytes=TOKEN_BYTES * 300)
    for admit in admits:
        engine.add(admit)
    messages = []
    while engine._statistics.preempted < 2:
        messages += engine.step(1000.0)
    assert {row.id for row in engine._runner.rows} == {admits[0].id, admits[1].id}
    engine.cancel(admits[2].id)
    found = ends(messages + run(engine, now=1002.001))
    assert {id_: end.code for id_, end in found.items() if isinstance(end, Refused)} == {
        admits[2].id: FailureCode.CANCELLED,
        admits[3].id: FailureCode.DEADLINE_EXCEEDED,
    }
    for admit in admits[:2]:
        assert ends(run(make_engine(), [admit]))[admit.id] == found[admit.id]


@pytest.mark.parametrize("lane", ["interactive", "batch"])
def test_a_neighbour_of_long_rows_is_answered_soon_and_they_lose_nothing(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, lane: Lane
) -> None:
    """Another namespace's rows hold every seat, or the batch lane's do, and many more wait."""
    lora, form = make_lora("a/lora@1"), Regex("[a-z]{100,110}")
    crowd = [
        msgspec.structs.replace(
            make_admit(f"{i}", max_tokens=120, output=form, artefacts=[lora][: i % 2], namespace="a"), lane=lane
        )
        for i in range(10)
    ]
    neighbours = [make_admit(f"n{i}", max_tokens=6, namespace="b") for i in range(3)]
    alone = {admit.id: ends(run(make_engine(), [admit]))[admit.id] for admit in (*crowd, *neighbours)}
    engine = make_engine(max_rows=4)
    for admit in crowd:
        engine.add(admit)
    messages = [message for _ in range(20) for message in engine.step(1000.0)]
    for admit in neighbours:
        engine.add(admit)
        for _ in range(7):
            messages += engine.step(1000.0)
        assert admit.id in ends(messages)
    assert engine._statistics.preempted == 1, "its seat is kept for the next"
    assert ends(messages + run(engine)) == alone
