"""A model that is deleted while its size is in use: everything that was sent is answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.workers.end_to_end import EndToEnd, manifests, until

from guideway.catalogue.changes import Deletion, plan_changes, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import request_topic
from guideway.schemas.reply import Completed, Failed
from guideway.usecases.delete import remove


def gone(*identities: Identity) -> Callable[[Catalogue], list[Deletion]]:
    def made_on(catalogue: Catalogue) -> list[Deletion]:
        return [one for each in identities for one in plan_deletion(catalogue, each, catalogue.versions(each))]

    return made_on


async def test_a_model_in_use_goes_only_where_that_is_said_and_events_are_told(system: EndToEnd) -> None:
    model = Identity("model", "public", system.name)
    endpoints = [Identity("endpoint", system.name, one) for one in ("task", "mean")]
    owners = {one.topic for one in [model, *endpoints]}
    waiting = system.submit("sent while no worker runs")

    async def published() -> bool:
        lane = request_topic(system.name, "interactive")
        return bool(await system.records(lane, 0) + await system.records(lane, 1))

    await until(published)
    with pytest.raises(Refusal, match=r"2 endpoints need it: .*/task") as caught:
        await remove(system.cluster, owners, gone(model), anyway=False)
    assert caught.value.code is FailureCode.INVALID_SETTING
    with pytest.raises(Refusal, match=f"1 request waits for model size {system.name}"):
        await remove(system.cluster, owners, gone(*endpoints, model), anyway=False)
    await remove(system.cluster, owners, gone(model), anyway=True)

    async def the_service_knows() -> bool:
        return system.reader.catalogue.latest(model) is None

    await until(the_service_knows)
    refused = await system.submit("sent when the model was gone")
    assert isinstance(refused, Failed)
    assert (refused.code, refused.retryable) == (FailureCode.UNKNOWN_MODEL_SIZE, True)
    assert "apply a manifest of kind model/v1 with the name" in refused.message
    assert not waiting.done()
    async with CatalogueFollower(system.cluster) as reader:
        changes = plan_changes(reader.catalogue, manifests(system.name))
        assert [change.version for change in changes] == [2, 1, 1]
        await publish(system.cluster, changes)
    async with system.worker():
        assert isinstance(await waiting, Completed)
        assert isinstance(await system.submit("sent when there is one again"), Completed)
    await remove(system.cluster, owners, gone(*endpoints, model), anyway=False)
