"""Which routers are learnt ahead, and how often: pure, and in virtual time."""

from __future__ import annotations

import asyncio

import msgspec
from tests.delivery.simulation.simulated_kafka import VirtualTime

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import Router, RoutingByModel, RoutingExamples
from guideway.schemas.manifests import Manifest
from guideway.workers.routing.ahead import LearningAhead, to_learn


def router(namespace: str, *, texts: int = 2, size: str = "small", none: str = "x") -> Router:
    two = {f"/{namespace}/{one}": [f"{one} {n}" for n in range(texts)] for one in ("a", "b")}
    examples = RoutingExamples(texts=two, none=[none])
    return Router(namespace=namespace, name="router", model_size=size, examples=examples)


def absorb(catalogue: Catalogue, *manifests: Manifest) -> None:
    for topic, key, value in catalogue_records(plan_changes(catalogue, manifests)):
        catalogue.absorb(topic, key, value)


def test_those_of_this_size_are_learnt_as_far_as_there_is_room() -> None:
    catalogue = Catalogue()
    bare = msgspec.structs.replace(router("d"), examples=None, model=RoutingByModel())
    absorb(catalogue, router("a"), router("b", texts=100), router("c"), bare, router("e", size="large"))
    found = [(one.namespace, version) for one, version in to_learn(catalogue, "small")]
    assert found == [("a", 1), ("b", 1), ("c", 1)]
    assert [one.namespace for one, _ in to_learn(catalogue, "small", most=10)] == ["a", "c"]


def test_each_version_is_learnt_once_and_the_newest_only() -> None:
    catalogue, learnt = Catalogue(), list[tuple[str, int]]()

    async def learn(one: Router, version: int) -> None:
        learnt.append((one.namespace, version))
        await asyncio.sleep(5)
        if one.namespace == "b":
            raise Refusal(FailureCode.SET_WRONG_EMBEDDING, "no model")
        if one.namespace == "c":
            raise RuntimeError

    async def test() -> None:
        absorb(catalogue, router("a"), router("b"), router("c"))
        async with LearningAhead(catalogue, "small", learn):
            await asyncio.sleep(100)
            for text in "yz":
                absorb(catalogue, router("a", none=text))
            await asyncio.sleep(100)

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(test())
    assert learnt == [("a", 1), ("b", 1), ("c", 1), ("a", 3)]


def test_somebody_who_changes_a_router_all_the_time_has_half_of_it() -> None:
    catalogue, busy = Catalogue(), [0.0]

    async def learn(one: Router, version: int) -> None:
        await asyncio.sleep(10)
        busy[0] += 10

    async def test() -> None:
        async with LearningAhead(catalogue, "small", learn):
            for number in range(1000):
                absorb(catalogue, router("a", none=str(number)))
                await asyncio.sleep(1)

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(test())
    assert 300 <= busy[0] <= 510
