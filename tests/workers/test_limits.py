"""Limits of namespaces on a real broker: beyond them a namespace's events wait, or are refused; nobody else's do."""

from __future__ import annotations

import asyncio

from tests.workers.end_to_end import EndToEnd, until
from tests.workers.test_fairness import add, in_lane, send

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.topics import event_topic, reply_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed


async def limit(system: EndToEnd, limits: Namespace) -> None:
    await make_topics(system.cluster, topics.catalogues(["public"]))
    async with CatalogueFollower(system.cluster) as reader:
        written = await publish(system.cluster, plan_changes(reader.catalogue, [limits]))
    # The service looks at what it knows, and asks no broker whether there is a limit since.
    await system.reader.seen(written)


def beside(system: EndToEnd, letter: str) -> Endpoint:
    """The endpoint of another namespace with the same workers."""
    return Endpoint(namespace=f"{system.name}-{letter}", name="task", model_size=system.name, output=Text())


async def test_requests_beyond_a_minute_wait_and_a_neighbours_do_not(system: EndToEnd) -> None:
    slow, quick = beside(system, "b"), beside(system, "c")
    await add(system, slow)
    await add(system, quick)
    await limit(system, Namespace(namespace="public", name=slow.namespace, requests_per_minute=3))
    await send(system, event_topic(slow.namespace, "task"), [f"slow {n}" for n in range(20)])
    await send(system, event_topic(quick.namespace, "task"), [f"quick {n}" for n in range(20)])

    async def the_neighbours_are_published() -> bool:
        return (await in_lane(system))[quick.namespace] == 20

    async def as_many_as_may_be_are_published() -> bool:
        return (await in_lane(system))[slow.namespace] >= 3

    await until(the_neighbours_are_published)
    await until(as_many_as_may_be_are_published)
    # Whatever is let in of the other namespace is let in by now.
    await asyncio.sleep(2)
    assert (await in_lane(system))[slow.namespace] == 3
    assert not await system.all_replies(reply_topic(slow.namespace, "task")), "nothing is refused"


async def test_a_namespace_that_wants_it_is_refused_at_once_and_told_when_to_come_again(system: EndToEnd) -> None:
    strict = beside(system, "d")
    await add(system, strict)
    limits = Namespace(namespace="public", name=strict.namespace, requests_per_minute=3, over_limit="refuse")
    await limit(system, limits)
    await send(system, event_topic(strict.namespace, "task"), [f"text {n}" for n in range(10)])
    replies = reply_topic(strict.namespace, "task")

    async def all_are_answered() -> bool:
        return len(await system.all_replies(replies)) >= 10

    async with system.worker():
        await until(all_are_answered, 60)
    found = await system.all_replies(replies)
    assert sum(isinstance(reply, Completed) for reply in found) == 3
    refused = [reply for reply in found if isinstance(reply, Failed)]
    assert {reply.code for reply in refused} == {FailureCode.QUOTA_EXCEEDED}
    assert "3 requests in the last minute, 3 may be; send it again in" in refused[0].message


async def test_an_endpoint_beyond_the_limit_is_refused_though_it_is_in_the_catalogue(system: EndToEnd) -> None:
    first, second = beside(system, "e"), beside(system, "e")
    second = Endpoint(namespace=second.namespace, name="again", model_size=system.name, output=Text())
    await add(system, first)
    await add(system, second)
    await limit(system, Namespace(namespace="public", name=first.namespace, endpoints=1))
    await send(system, event_topic(second.namespace, "again"), ["text"])

    async def it_is_answered() -> bool:
        return bool(await system.all_replies(reply_topic(second.namespace, "again")))

    await until(it_is_answered)
    (reply,) = await system.all_replies(reply_topic(second.namespace, "again"))
    assert isinstance(reply, Failed)
    assert reply.code is FailureCode.NOT_ALLOWED
    assert "may have 1 endpoints, and 1 were created before this one" in reply.message
