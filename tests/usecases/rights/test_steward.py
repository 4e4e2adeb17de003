"""A steward on a cluster that denies everything by default."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError
from tests.secured.cluster import SecuredCluster
from tests.usecases.rights.surveys import survey_of, survey_when

from guideway.catalogue.entries import Catalogue, Identity
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights import held
from guideway.infra.rights.right import Right
from guideway.infra.topic_removal import remove_topics
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.wire import MANIFEST
from guideway.usecases.rights.create import Wanted, create_namespace
from guideway.usecases.rights.delete import removal, remove
from guideway.usecases.rights.steward import Steward


def catalogue_of(*endpoints: Endpoint) -> Catalogue:
    catalogue = Catalogue()
    for one in endpoints:
        catalogue.absorb(Identity.of(one).topic, Identity.of(one).key(1), MANIFEST.encode(one))
    return catalogue


async def test_an_endpoint_gets_what_it_needs_and_its_team_may_use_it_and_no_other_team(
    secured: SecuredCluster, unique_name: str
) -> None:
    cluster, ns, other = secured.kafka.internal, unique_name, f"{unique_name}0"
    for one in (ns, other):
        secured.add_principal(one)
        await create_namespace(cluster, Wanted(one, (f"User:{one}",)))
    orders = Endpoint(namespace=ns, name="orders", model_size="small", output=Text(), partitions=2)
    reader: Any = SimpleNamespace(catalogue=catalogue_of(orders))
    steward = Steward(cluster, reader)
    await steward.keep()
    survey = await survey_of(cluster)
    assert survey.topics[f"gw.{ns}.orders.in.v1"] == 2
    await _await_topic(secured, ns, f"gw.{ns}.orders.in.v1")

    async with AIOKafkaProducer(**secured.aiokafka(ns)) as producer:
        await producer.send_and_wait(f"gw.{ns}.orders.in.v1", b"hello")
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(f"gw.{ns}.orders.out.v1", b"a reply of my own")
    async with AIOKafkaConsumer(**secured.aiokafka(ns), group_id=f"{ns}.mine") as consumer:
        consumer.assign([TopicPartition(f"gw.{ns}.orders.out.v1", 0)])
        assert await consumer.end_offsets([TopicPartition(f"gw.{ns}.orders.out.v1", 0)])
    async with AIOKafkaProducer(**secured.aiokafka(other)) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(f"gw.{ns}.orders.in.v1", b"hello")

    # Somebody takes a right away by hand: it comes back.
    lost = Right(f"User:{ns}", "topic", "literal", f"gw.{ns}.orders.in.v1", "write")
    async with administrator(cluster) as admin:
        await held.revoke(admin, [lost])
    async with asyncio.timeout(10):
        while lost not in (await survey_of(cluster)).held.exactly:
            await steward.keep()

    # The endpoint is deleted: at the second look nobody may write to it; what stands there is still read and answered.
    reader.catalogue = Catalogue()
    await steward.keep()
    assert lost in (await survey_of(cluster)).held.exactly
    await steward.keep()
    async with asyncio.timeout(10):
        while lost in (survey := await survey_of(cluster)).held.exactly:
            await asyncio.sleep(0.1)
    for principal, topic, operation in (
        (ns, f"gw.{ns}.orders.out.v1", "read"),
        ("gw-endpoints", f"gw.{ns}.orders.in.v1", "read"),
        ("gw-worker", f"gw.{ns}.orders.out.v1", "write"),
    ):
        assert Right(f"User:{principal}", "topic", "literal", topic, operation) in survey.held.exactly  # type: ignore[arg-type]

    # Its topics are deleted by an administrator: then all rights on them go, and the namespace's own stay.
    async with administrator(cluster) as admin:
        await admin.delete_topics([one for one in survey.topics if f"gw.{ns}.orders." in one])
    await survey_when(cluster, lambda survey: not any(f"gw.{ns}.orders." in one for one in survey.topics))
    await steward.keep()
    await steward.keep()
    survey = await survey_when(
        cluster, lambda survey: not any(f"gw.{ns}.orders." in one.name for one in survey.rights or ())
    )
    assert Right(f"User:{ns}", "topic", "literal", f"gw.{ns}.call.v1", "write") in survey.held.exactly


async def test_topics_of_a_replay_that_is_over_go_by_the_stewards_own_rights(
    secured: SecuredCluster, unique_name: str
) -> None:
    """A team may not delete topics; what its killed replays leave would stay for ever."""
    cluster, ns = secured.kafka.internal, unique_name
    secured.add_principal(ns)
    await create_namespace(cluster, Wanted(ns, (f"User:{ns}",)))
    trial, orders = (
        Endpoint(namespace=ns, name=name, model_size="small", output=Text()) for name in ("orders-replay-now", "orders")
    )
    reader: Any = SimpleNamespace(catalogue=catalogue_of(trial, orders))
    team, own = (Cluster.from_environ(secured.environ(one)) for one in (ns, "gw-steward"))
    assert team is not None
    assert own is not None
    steward = Steward(own, reader, trials_s=1)
    await Steward(cluster, reader).keep()
    await _await_topic(secured, ns, f"gw.{ns}.orders-replay-now.out.v1")
    topics = {f"gw.{ns}.orders-replay-now.{rest}" for rest in ("in.v1", "in.v1.dlq", "out.v1")}
    assert set(await remove_topics(team, topics)) == topics
    assert topics <= (await survey_of(cluster)).topics.keys()

    reader.catalogue = catalogue_of(orders)
    await steward.keep()
    assert topics <= (await survey_of(cluster)).topics.keys(), "what is under way may still be answered"
    async with asyncio.timeout(20):
        while topics & (await survey_of(cluster)).topics.keys():
            await asyncio.sleep(0.5)
            await steward.keep()
    survey = await survey_of(cluster)
    assert f"gw.{ns}.orders.in.v1" in survey.topics


async def test_it_keeps_on_its_own_and_ends_when_told(secured: SecuredCluster, unique_name: str) -> None:
    cluster, ns = secured.kafka.internal, unique_name
    await create_namespace(cluster, Wanted(ns, (f"User:{ns}",)))
    reader: Any = SimpleNamespace(catalogue=Catalogue())
    steward = Steward(cluster, reader, look_s=0.2)
    running = asyncio.create_task(steward.run())
    await asyncio.sleep(1)
    reader.catalogue = catalogue_of(Endpoint(namespace=ns, name="late", model_size="small", output=Text()))
    async with asyncio.timeout(20):
        while f"gw.{ns}.late.out.v1" not in (await survey_of(cluster)).topics:
            await asyncio.sleep(0.1)
    steward.stop()
    async with asyncio.timeout(10):
        await running


async def test_a_namespace_is_taken_away_without_a_record_lost(secured: SecuredCluster, unique_name: str) -> None:
    cluster, ns = secured.kafka.internal, unique_name
    people = (f"User:{ns}", f"User:{ns}-b")
    await create_namespace(cluster, Wanted(ns, people, (f"User:{ns}-web",)))
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.brokers})
    producer.produce(f"gw.{ns}.call.v1", b"an event")
    producer.flush(10)

    await remove(cluster, await removal(cluster, ns, [people[1]], topics=False))
    # Of what is taken away the quotas come last, and of all of it the topics.
    survey = await survey_when(cluster, lambda survey: f"{ns}-b" not in survey.quotas)
    assert survey.space(ns, []).team == people[:1]
    assert not [one for one in survey.rights or () if one.principal == people[1]]

    planned = await removal(cluster, ns, [], topics=True)
    assert planned.kept == (f"gw.{ns}.call.v1",)
    await remove(cluster, planned)
    survey = await survey_when(
        cluster, lambda survey: [one for one in survey.topics if f".{ns}." in one] == [f"gw.{ns}.call.v1"]
    )
    assert not [one for one in survey.rights or () if ns in one.name or ns in one.principal]
    assert ns not in survey.quotas


async def test_a_steward_goes_on_whatever_its_look_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end unseen, beside the trail that goes on: no new endpoint would get its topics."""
    reader: Any = SimpleNamespace(catalogue=catalogue_of())
    steward = Steward(Cluster("127.0.0.1:1"), reader, look_s=0)
    looks: list[str] = []

    async def keep() -> None:
        looks.append("look")
        if len(looks) == 1:
            raise ValueError("an answer that nobody foresaw")
        steward.stop()

    monkeypatch.setattr(steward, "keep", keep)
    async with asyncio.timeout(10):
        await steward.run()
    assert len(looks) == 2


async def _await_topic(secured: SecuredCluster, principal: str, topic: str) -> None:
    async with asyncio.timeout(10), AIOKafkaConsumer(**secured.aiokafka(principal)) as consumer:
        while topic not in await consumer.topics():
            await asyncio.sleep(0.1)
