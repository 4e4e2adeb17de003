"""`guideway shadows` on a cluster that denies everything by default: a team's rights are all that it needs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.secured.cluster import SecuredCluster
from tests.secured.test_a_gateway import logged_in
from tests.usecases.shadows.conftest import running

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replies import reply_records
from guideway.delivery.settings import DeliverySettings
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.producers.client.client import Client
from guideway.producers.events.envelope import read_envelope, readable
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.shadow import Shadow, ShadowChanges
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names.groups import ENDPOINTS_GROUP
from guideway.schemas.names.service_topics import shadows_topic
from guideway.schemas.names.topics import endpoint_of_topic
from guideway.schemas.output import Text
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.settings import Settings
from guideway.usecases.apply import apply_made
from guideway.usecases.rights.create import Wanted, create_namespace, create_services
from guideway.usecases.rights.steward import Steward
from guideway.usecases.shadows.pen import sole_pen
from guideway.usecases.shadows.service import ShadowService
from guideway.usecases.shadows.view import View, shadow_of

ROWS = 20


async def answer(record: Record) -> list[Outgoing]:
    """In place of an endpoint service and a worker."""
    envelope = read_envelope(record)
    address = readable(envelope.reply_to)
    found = endpoint_of_topic(record.topic)
    assert address is not None
    assert found is not None
    reply = Completed(
        id=envelope.id,
        namespace=found[0],
        endpoint=found[1],
        endpoint_version=1,
        samples=[Sample(value="a", text="a", finish_reason="stop")],
        usage=Usage(prompt_tokens=2, output_tokens=1),
        guidance=[],
        model_fingerprint="none",
    )
    return reply_records(reply, [address], record)


async def test_a_team_carries_out_its_shadow_with_its_own_rights(
    secured_alone: SecuredCluster, unique_name: str, tmp_path: Path
) -> None:
    admin, ns = secured_alone.kafka.internal, unique_name
    secured_alone.add_principal(ns)
    await create_services(admin, None)
    await create_namespace(admin, Wanted(ns, (f"User:{ns}",)))
    team = logged_in(secured_alone, ns)
    model = Model(namespace="public", name=ns, source="none", fingerprint="sha256:" + "a" * 64, partitions=1)
    rule = Shadow(with_=ShadowChanges(instruction="Else."), share=1, rows=ROWS)
    mood = Endpoint(namespace=ns, name="mood", model_size=ns, output=Text(), shadow=rule)
    await apply_made(_settings(admin, tmp_path), {"public"}, lambda _there: [model])
    services = Pipeline(
        DeliverySettings(cluster=logged_in(secured_alone, "gw-endpoints")),
        group=ENDPOINTS_GROUP,
        handle=answer,
        pattern=rf"^gw\.{ns}\.mood(-replay-(now|new))?\.in\.v1$",
    )
    async with CatalogueFollower(admin) as reader, running(Steward(admin, reader, look_s=1)), running(services):
        await apply_made(_settings(team, tmp_path), {ns}, lambda _there: [mood])
        async with running(ShadowService(_settings(team, tmp_path), [ns], look_s=0.2)), Client(team) as caller:
            async with asyncio.timeout(100):
                while (view := await shadow_of(_settings(team, tmp_path), mood.address)).stage != "ended":
                    await asyncio.gather(*(caller.submit(mood.address, f"{n}") for n in range(ROWS)))
    assert isinstance(view, View)
    assert (view.outcome, view.why) == ("compared", "")
    assert view.figures is not None
    assert view.figures.rows >= ROWS


async def test_a_topic_that_may_not_be_written_is_no_other_process(
    secured_alone: SecuredCluster, unique_name: str
) -> None:
    secured_alone.add_principal(unique_name)
    secured_alone.allow(unique_name, "write", "describe", transaction=f"{unique_name}.*")
    secured_alone.allow(unique_name, "read", "describe", topic=shadows_topic(unique_name))
    await make_topics(secured_alone.kafka.internal, topics.shadows(unique_name))
    async with sole_pen(logged_in(secured_alone, unique_name), unique_name) as pen:
        with pytest.raises(Refusal, match=f"may not write the topic {shadows_topic(unique_name)}") as refused:
            await pen.write([(b"mood", None)])
    assert refused.value.code is FailureCode.NOT_ALLOWED


def _settings(cluster: Cluster, home: Path) -> Settings:
    return Settings(home=home, store=str(home / "store"), named=cluster)
