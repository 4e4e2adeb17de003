"""Requests that arrive: when they can be taken, and what their rows are."""

from __future__ import annotations

import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine
from tests.workers.engine.scheduling.conftest import Disk

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Choice, Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.scheduling.admission import Admission


@pytest.fixture
def admission(engine: Engine) -> Admission:
    return engine._admission


def test_a_request_is_a_row_for_each_sample(
    admission: Admission, make_admit: MakeAdmit, make_soft_prompt: MakeArtefact, make_prefix: MakeArtefact
) -> None:
    artefacts = [make_soft_prompt("a/soft@1", num_virtual_tokens=5), make_prefix("a/prefix@1", num_virtual_tokens=4)]
    admit = make_admit("Is it?", samples=3, output=Choice(["yes", "no"]), artefacts=artefacts)
    admission.begin(admit)
    assert admission.arrived() == [admit.id]
    rows = admission.take(admit.id, in_use=())
    assert [row.sample for row in rows] == [0, 1, 2]
    (first, *_) = rows
    assert (first.id, first.virtual_tokens, first.prefix_tokens, first.guidance) == (admit.id, 5, 4, None)
    assert all(row.form is first.form is not None for row in rows), "samples share the compiled form"
    assert [*admission.ids] == []


def test_requests_are_taken_in_the_order_in_which_they_came(admission: Admission, make_admit: MakeAdmit) -> None:
    admits = [make_admit(f"{i}") for i in range(4)]
    for admit in admits:
        admission.begin(admit)
    admission.drop(admits[1].id)
    admission.drop("nobody")
    assert admission.arrived() == [admit.id for admit in admits if admit is not admits[1]]


def test_what_is_wrong_is_told_once_it_is_taken(admission: Admission, make_admit: MakeAdmit) -> None:
    long, bad = make_admit("long " * 300), make_admit(output=Regex("(a"))
    for admit, code in ((long, FailureCode.TEXT_TOO_LONG), (bad, FailureCode.OUTPUT_UNSATISFIABLE)):
        admission.begin(admit)
        assert admission.arrived() == [admit.id]
        with pytest.raises(Refusal) as caught:
            admission.take(admit.id, in_use=())
        assert caught.value.code is code
        assert admission.arrived() == []


def test_deadlines_are_seen_while_requests_arrive(admission: Admission, make_admit: MakeAdmit) -> None:
    early, late, never = make_admit(deadline_ms=5_000), make_admit(deadline_ms=6_000), make_admit()
    for admit in (early, late, never):
        admission.begin(admit)
    assert [admission.late(now) for now in (5.0, 5.001, 7.0)] == [[], [early.id], [early.id, late.id]]


def test_a_request_arrives_once_its_guidance_is_read(
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    make_lora: MakeArtefact,
    disk: Disk,
) -> None:
    engine = make_engine(reader_threads=1)
    admission = engine._admission
    guided, plain = make_admit("guided", artefacts=[make_lora("a/lora@1")]), make_admit("plain")
    for admit in (guided, plain):
        admission.begin(admit)
    assert admission.arrived() == [plain.id]
    disk.may_read.set()
    (reading,) = engine._ahead.missing
    reading.result(30)
    assert admission.arrived() == [guided.id, plain.id]
