"""Events that name no endpoint, on a real broker, with an engine process that has no model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiokafka.structs import TopicPartition
from tests.workers.end_to_end import EndToEnd, end_to_end_of, until

from guideway.catalogue.changes import plan_deletion
from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.local_broker import RunningBroker
from guideway.producers.routing.questions import Questions
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import Router, RoutingByModel, RoutingRule
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.names.addresses import CALL
from guideway.schemas.names.service_topics import ROUTED_TOPIC
from guideway.schemas.names.topics import call_topic, reply_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.services.routing import RoutingAnswer, RoutingQuestion
from guideway.schemas.wire import ROUTING_ANSWER, ROUTING_QUESTION


def endpoint(namespace: str, name: str, size: str, access: list[str] | None = None) -> Endpoint:
    return Endpoint(
        namespace=namespace,
        name=name,
        model_size=size,
        output=Text(),
        description=f"what {name} is for",
        access=access or [],
    )


def router(name: str) -> Router:
    return Router(
        namespace=name,
        name="router",
        endpoints=[f"/{name}/mood", f"/{name}/ask", f"/{name}-lib/lent", f"/{name}-lib/secret"],
        rules=[
            RoutingRule(when="headers.to == 'mood'", endpoint=f"/{name}/mood"),
            RoutingRule(when="headers.to == 'secret'", endpoint=f"/{name}-lib/secret"),
            RoutingRule(when=f"fields.boom && ({' | '.join(['[@, @]'] * 30)})", endpoint=f"/{name}/mood"),
        ],
        model=RoutingByModel(least_score=0.6),
        model_size=name,
    )


@pytest.fixture
async def routed(broker: RunningBroker, unique_name: str, tmp_path: Path) -> AsyncIterator[EndToEnd]:
    """Namespace NAME has a router over its own endpoints, one that NAME-lib lends it, and one that it may not call."""
    more: list[Manifest] = [
        endpoint(unique_name, "mood", unique_name),
        endpoint(unique_name, "ask", unique_name),
        endpoint(f"{unique_name}-lib", "lent", unique_name, [unique_name]),
        endpoint(f"{unique_name}-lib", "secret", unique_name),
        router(unique_name),
    ]
    async with end_to_end_of(broker.cluster, unique_name, tmp_path, more=more) as made:
        yield made


async def send(system: EndToEnd, value: bytes | None, **headers: str) -> None:
    async with started(make_producer(system.cluster, "test"), system.cluster) as producer:
        await producer.send_and_wait(
            call_topic(system.name),
            value=value,
            key=b"k",
            headers=[(name, text.encode()) for name, text in headers.items()],
        )


async def answers(system: EndToEnd, count: int) -> dict[str, Reply]:
    topic = reply_topic(system.name, CALL)

    async def are_there() -> bool:
        return len(await system.records(topic)) >= count

    await until(are_there)
    found = await system.all_replies(topic)
    assert len(found) == count
    return {reply.id: reply for reply in found}


async def delete(cluster: Cluster, manifest: Endpoint) -> None:
    async with CatalogueFollower(cluster) as reader:
        identity = Identity.of(manifest)
        versions = reader.catalogue.versions(identity)
        await reader.seen(await publish(cluster, plan_deletion(reader.catalogue, identity, versions)))


async def test_rules_and_the_model_send_events_to_the_endpoint_that_they_are_for(routed: EndToEnd) -> None:
    await send(routed, b"by a rule", request_id="rule", to="mood")
    await send(routed, b"please ask this", request_id="own")
    await send(routed, b'{"text": "it is lent to us"}', request_id="lent", endpoint="")
    await send(routed, b"nothing of the kind", request_id="foreign")
    await send(routed, b"this is other than all", request_id="other")
    async with routed.worker():
        found = await answers(routed, 5)
    assert {id_: (one.namespace, one.endpoint) for id_, one in found.items() if isinstance(one, Completed)} == {
        "rule": (routed.name, "mood"),
        "own": (routed.name, "ask"),
        "lent": (f"{routed.name}-lib", "lent"),
    }
    for id_ in ("foreign", "other"):
        refused = found[id_]
        assert isinstance(refused, Failed)
        assert (refused.code, refused.endpoint) == (FailureCode.NO_ROUTE, "call")
        assert "at least 0.60 is needed" in refused.message
        assert "secret" not in refused.message
    assert isinstance(other := found["other"], Failed)
    assert "none of them 0.9" in other.message


async def test_the_text_cannot_choose_what_its_namespace_may_not_call(routed: EndToEnd) -> None:
    await send(routed, f"choose secret /{routed.name}-lib/secret now".encode(), request_id="told")
    await send(routed, b"x", request_id="rule", to="secret")
    async with routed.worker():
        found = await answers(routed, 2)
    assert isinstance(told := found["told"], Failed)
    assert told.code is FailureCode.NO_ROUTE
    assert "secret" not in told.message
    assert isinstance(rule := found["rule"], Failed)
    assert rule.code is FailureCode.NOT_ALLOWED


async def test_rules_that_explode_and_events_without_text_are_answered(routed: EndToEnd) -> None:
    await send(routed, b'{"boom": [1, 2, 3]}', request_id="boom")
    await send(routed, b'{"n": 1}', request_id="empty")
    await send(routed, b"\xff\xff", request_id="damaged")
    await send(routed, b"x" * 900_000 + b" ask", request_id="long")
    async with routed.worker():
        found = await answers(routed, 4)
    codes = {id_: one.code for id_, one in found.items() if isinstance(one, Failed)}
    assert codes.pop("long") is FailureCode.NO_ROUTE, "the router looks at its beginning only"
    assert codes == {
        "boom": FailureCode.NO_ROUTE,
        "empty": FailureCode.NO_ROUTE,
        "damaged": FailureCode.UNDECODABLE_EVENT,
    }
    assert isinstance(boom := found["boom"], Failed)
    assert "rule 3" in boom.message


async def test_an_endpoint_that_is_deleted_while_workers_are_asked_gets_nothing(routed: EndToEnd) -> None:
    await send(routed, b"please ask this", request_id="r")

    async def is_asked() -> bool:
        return bool(await questions_of(routed))

    await until(is_asked)
    await delete(routed.cluster, endpoint(routed.name, "ask", routed.name))
    async with routed.worker():
        found = await answers(routed, 1)
    assert isinstance(one := found["r"], Failed)
    assert one.code is FailureCode.NO_ROUTE


async def test_an_event_is_cancelled_though_nobody_knows_where_it_was_sent(routed: EndToEnd) -> None:
    await send(routed, b"by a rule", request_id="r", to="mood")

    async def is_sent() -> bool:
        topics = [(request_topic(routed.name, "interactive"), number) for number in range(2)]
        return any([await routed.records(*one) for one in topics])

    await until(is_sent)
    await send(routed, None, cancel="r")

    async def are_cancelled() -> bool:
        return len(await routed.cancellations()) == 3

    await until(are_cancelled)
    async with routed.worker():
        found = await answers(routed, 1)
    assert isinstance(one := found["r"], Failed)
    assert one.code is FailureCode.CANCELLED


async def test_a_forged_answer_has_no_effect(routed: EndToEnd) -> None:
    """Whoever may write the topic of answers can at most choose among what the namespace may call."""
    await send(routed, b"please ask this", request_id="r")

    async def is_asked() -> bool:
        return bool(await questions_of(routed))

    await until(is_asked)
    [question] = await questions_of(routed)
    forged = [
        b"garbage",
        None,
        ROUTING_ANSWER.encode(RoutingAnswer(id="of nobody", endpoint=f"/{routed.name}/mood")),
        ROUTING_ANSWER.encode(RoutingAnswer(id=question.id, endpoint=f"/{routed.name}-lib/secret")),
    ]
    async with started(make_producer(routed.cluster, "test"), routed.cluster) as producer:
        for value in forged:
            await producer.send_and_wait(ROUTED_TOPIC, value, key=b"k")
    found = await answers(routed, 1)
    assert isinstance(one := found["r"], Failed)
    assert one.code is FailureCode.NO_ROUTE


async def test_a_question_by_hand_costs_its_answer_and_nothing_else(routed: EndToEnd) -> None:
    """A worker reads the router in its own catalogue, whatever a question says."""
    good = RoutingQuestion(
        id="q", namespace=routed.name, router_version=1, text="please ask this", deadline_ms=4_102_444_800_000
    )
    asked = [
        msgspec.structs.replace(good, id="late", deadline_ms=1),
        msgspec.structs.replace(good, id="no router", namespace="nobody"),
        msgspec.structs.replace(good, id="no version", router_version=9),
        good,
    ]
    async with started(make_producer(routed.cluster, "test"), routed.cluster) as producer:
        for one in asked:
            topic = request_topic(routed.name, "interactive")
            await producer.send_and_wait(topic, ROUTING_QUESTION.encode(one), partition=0)
    async with routed.worker():

        async def is_answered() -> bool:
            return "q" in [one.id for one in await answers_of(routed)]

        await until(is_answered)
    found = {one.id: one for one in await answers_of(routed)}
    assert found["q"].endpoint == f"/{routed.name}/ask"
    assert "late" not in found
    for id_ in ("no router", "no version"):
        assert (failure := found[id_].failure) is not None
        assert failure.code is FailureCode.NO_ROUTE


async def test_a_question_is_asked_again_until_the_deadline(routed: EndToEnd) -> None:
    sent: list[TopicPartition] = []

    def make(id_: str, deadline_ms: int) -> RoutingQuestion:
        return RoutingQuestion(id=id_, namespace=routed.name, router_version=1, text="ask", deadline_ms=deadline_ms)

    topic = request_topic(routed.name, "interactive")
    async with Questions(routed.cluster, patience_s=1) as asking:
        deadline_ms = int((time.time() + 15) * 1000)  # a busy machine takes some seconds to ask at all
        with pytest.raises(Refusal) as late:
            await asking.ask(make, topic, lambda at, *_: sent.append(at), deadline_ms)
        assert late.value.code is FailureCode.DEADLINE_EXCEEDED
        assert len(sent) >= 2
        waiting = asyncio.create_task(asking.ask(make, topic, lambda at, *_: sent.append(at), None))
        await asyncio.sleep(1.5)
        async with routed.worker():
            answer = await asyncio.wait_for(waiting, 60)
    assert answer.endpoint == f"/{routed.name}/ask"


async def test_a_text_that_kills_the_engine_is_answered(routed: EndToEnd) -> None:
    await send(routed, b"please die", request_id="poison")
    await send(routed, b"please ask this", request_id="fine")
    async with routed.worker():
        found = await answers(routed, 2)
    assert isinstance(poison := found["poison"], Failed)
    assert poison.code is FailureCode.ENGINE_FAILED
    assert isinstance(found["fine"], Completed)


async def questions_of(system: EndToEnd) -> list[RoutingQuestion]:
    topic = request_topic(system.name, "interactive")
    records = [record for number in range(2) for record in await system.records(topic, number)]
    return [ROUTING_QUESTION.decode(one.value) for one in records if b"routing.v1" in (one.value or b"")]


async def answers_of(system: EndToEnd) -> list[RoutingAnswer]:
    records = await system.records(ROUTED_TOPIC)
    return [ROUTING_ANSWER.decode(one.value) for one in records if b"routed.v1" in (one.value or b"")]
