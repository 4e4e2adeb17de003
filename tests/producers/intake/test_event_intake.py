"""Whose share an event counts against."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from guideway.catalogue.changes import Deletion, catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.intake.event_intake import EventIntake
from guideway.producers.intake.shares import Shares
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
    intake = EventIntake(reader, Shares())
    assert intake.party("gw.team.task.in.v1").lane == "gw.infer.small.interactive.v1"
    assert intake.party("gw.team.other.in.v1").lane == ""
    reader.catalogue = orphaned
    assert intake.party("gw.team.task.in.v1").lane == ""
