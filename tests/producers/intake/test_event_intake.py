"""Whose share an event counts against."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from guideway.catalogue.changes import Deletion, catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.intake import event_intake
from guideway.producers.intake.event_intake import EventIntake
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Boolean


def test_events_that_will_be_refused_wait_for_no_share() -> None:
    """Without its model an endpoint's lane is not drained: a share that is full would hold them back for good."""
    manifests: list[Manifest] = [
        Model(namespace="public", name="small", source="folder"),
        Endpoint(namespace="team", name="task", model_size="small", output=Boolean()),
    ]
    served = Catalogue().after(catalogue_records(plan_changes(Catalogue(), manifests)))
    orphaned = served.after(catalogue_records([Deletion(Identity("model", "public", "small"), 1, kept=True)]))
    reader: Any = SimpleNamespace(catalogue=served)
    intake = EventIntake(reader)
    assert intake.party("gw.team.task.in.v1").lane == "gw.infer.small.interactive.v1"
    assert intake.party("gw.team.other.in.v1").lane == ""
    reader.catalogue = orphaned
    assert intake.party("gw.team.task.in.v1").lane == ""


async def test_a_call_waits_for_its_lane_until_its_deadline_and_then_holds_up_nobody() -> None:
    endpoint = Endpoint(namespace="team", name="task", model_size="small", output=Boolean())
    manifests: list[Manifest] = [Model(namespace="public", name="small", source="folder"), endpoint]
    reader: Any = SimpleNamespace(catalogue=Catalogue().after(catalogue_records(plan_changes(Catalogue(), manifests))))
    intake = EventIntake(reader)
    intake._calls.round(lambda party: 0, 0.0)
    with pytest.raises(Refusal, match="the deadline passed while the call waited for room in its lane") as refused:
        await _let_in(intake, endpoint, 0.02)
    assert refused.value.code is FailureCode.DEADLINE_EXCEEDED
    assert not intake._calls.parties
    waiting = asyncio.create_task(_let_in(intake, endpoint, 20))
    await asyncio.sleep(0.02)
    intake._calls.round(lambda party: 1, 0.0)
    await waiting
    # Whoever has passed its deadline before, and need not wait, is let in: what then refuses it says by how much.
    intake._calls.round(lambda party: 5, 0.0)
    await _let_in(intake, endpoint, 0)


@pytest.mark.parametrize("wait_s", [None, 1e6])
async def test_a_call_for_which_all_behind_it_wait_does_so_for_a_short_time(
    monkeypatch: pytest.MonkeyPatch, wait_s: float | None
) -> None:
    """As where process after process has died: none begins beside it, and its deadline may be a week."""
    monkeypatch.setattr(event_intake, "SINGLE_FILE_S", 0.02)
    endpoint = Endpoint(namespace="team", name="task", model_size="small", output=Boolean())
    manifests: list[Manifest] = [Model(namespace="public", name="small", source="folder"), endpoint]
    reader: Any = SimpleNamespace(catalogue=Catalogue().after(catalogue_records(plan_changes(Catalogue(), manifests))))
    intake = EventIntake(reader)
    intake._calls.round(lambda party: 0, 0.0)
    with pytest.raises(Refusal, match="such calls wait one by one") as refused:
        await asyncio.wait_for(_let_in(intake, endpoint, wait_s, in_single_file=True), 5)
    assert refused.value.code is FailureCode.QUOTA_EXCEEDED
    assert not intake._calls.parties


async def _let_in(
    intake: EventIntake, endpoint: Endpoint, wait_s: float | None, *, in_single_file: bool = False
) -> None:
    waits = contextlib.nullcontext()
    async with intake.let_in("team", endpoint, "gw.team.call.v1", waits, wait_s, in_single_file=in_single_file):
        pass
