"""`guideway dlq replay` of events whose endpoint was deleted: its topics stay, and nobody answers there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.dlq.graveyard import RECORDS, Graveyard

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.schemas.output import Text


async def test_events_of_an_endpoint_that_is_gone_stay_and_it_is_said(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    graveyard = Graveyard(broker.cluster, unique_name, tmp_path)
    await make_topics(graveyard.cluster, topics.with_dead_letters(graveyard.topic, 3))
    await graveyard.bury(RECORDS)
    await make_topics(graveyard.cluster, topics.catalogues([graveyard.namespace]))
    async with CatalogueFollower(graveyard.cluster) as reader:
        await reader.require([catalogue_topic(graveyard.namespace)])
    for more in ((), ("--dry-run",)):
        said = graveyard.command("replay", graveyard.topic, "--json", *more)
        assert said.returncode == 1
        told = json.loads(said.stdout)
        assert (told["replayed"], [(one["why"], one["records"]) for one in told["skipped"]]) == (
            0,
            [("no_endpoint", 4)],
        )
    assert "apply the endpoint first" in graveyard.command("replay", graveyard.topic).stdout
    assert await graveyard.read() == []
    task = Endpoint(namespace=graveyard.namespace, name="task", model_size="small", output=Text())
    await publish(graveyard.cluster, plan_changes(Catalogue(), [task]))
    assert graveyard.replay()["replayed"] == 4
