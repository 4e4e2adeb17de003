"""A model that is deleted while its size is in use: everything that was sent is answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.workers.end_to_end import Road, manifests, until

from guideway.catalogue.entries import Catalogue, Deletion, Identity, plan, plan_deletion
from guideway.catalogue.topic import CatalogueReader, publish
from guideway.cli.catalogue.delete import remove
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed, Failed


def gone(*identities: Identity) -> Callable[[Catalogue], list[Deletion]]:
    def made_on(catalogue: Catalogue) -> list[Deletion]:
        return [one for each in identities for one in plan_deletion(catalogue, each, catalogue.versions(each))]

    return made_on


async def test_a_model_in_use_goes_only_where_that_is_said_and_events_are_told(road: Road) -> None:
    model = Identity("model", "public", road.name)
    endpoints = [Identity("endpoint", road.name, one) for one in ("task", "mean")]
    waiting = road.submit("sent while no worker runs")

    async def published() -> bool:
        lane = names.request_topic(road.name, "interactive")
        return bool(await road.records(lane, 0) + await road.records(lane, 1))

    await until(published)
    with pytest.raises(Refusal, match=r"2 endpoints need it: .*/task") as caught:
        await remove(road.bootstrap, gone(model), anyway=False)
    assert caught.value.code is FailureCode.INVALID_SETTING
    with pytest.raises(Refusal, match=f"1 request waits for model size {road.name}"):
        await remove(road.bootstrap, gone(*endpoints, model), anyway=False)
    await remove(road.bootstrap, gone(model), anyway=True)
    refused = await road.submit("sent when the model was gone")
    assert isinstance(refused, Failed)
    assert (refused.code, refused.retryable) == (FailureCode.UNKNOWN_MODEL_SIZE, True)
    assert "apply a manifest of kind model/v1 with the name" in refused.message
    assert not waiting.done()
    async with CatalogueReader(road.bootstrap) as reader:
        changes = plan(reader.catalogue, manifests(road.name))
        assert [change.version for change in changes] == [2, 1, 1]
        await publish(road.bootstrap, changes)
    async with road.worker():
        assert isinstance(await waiting, Completed)
        assert isinstance(await road.submit("sent when there is one again"), Completed)
    await remove(road.bootstrap, gone(*endpoints, model), anyway=False)
