"""A team with rights on its own and the public catalogue only: what it can apply and delete, and what it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.secured.cluster import SecuredCluster

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.names.topics import dead_letter_topic, event_topic, reply_topic
from guideway.schemas.output import Text
from guideway.settings import Settings
from guideway.usecases.apply import How, apply_manifests
from guideway.usecases.delete import delete_entry
from guideway.usecases.rights.create import Wanted, create_namespace

SMALL = Model(namespace="public", name="small", source="/models/small")


class Teams:
    """Two namespaces on the secured cluster, each with a team of its own."""

    def __init__(self, secured: SecuredCluster, folder: Path, name: str) -> None:
        self.secured, self.folder = secured, folder
        self.mine, self.theirs = f"{name}-a", f"{name}-b"
        self.told: list[str] = []

    def settings(self, namespace: str) -> Settings:
        return Settings.from_environ(
            {**self.secured.environ(namespace), "GUIDEWAY_HOME": str(self.folder), "GUIDEWAY_STORE": str(self.folder)}
        )

    async def apply(self, as_whom: str, *manifests: Manifest, wait_s: float = 30) -> list[str]:
        sources = [Source(Path(), one) for one in manifests]
        changes = await apply_manifests(self.settings(as_whom), sources, How(wait_s=wait_s), self.told.append)
        return [f"{one.identity}@{one.version}" for one in changes]


@pytest.fixture
async def teams(secured: SecuredCluster, unique_name: str, tmp_path: Path) -> Teams:
    made = Teams(secured, tmp_path, unique_name)
    inside = secured.kafka.internal
    for one in (made.mine, made.theirs):
        secured.add_principal(one)
        await create_namespace(inside, Wanted(one, (f"User:{one}",)))
    await make_topics(inside, topics.wanted([SMALL]))
    await publish(inside, plan_changes(Catalogue(), [SMALL]))
    return made


def endpoint(namespace: str, *guidance: str) -> Endpoint:
    return Endpoint(namespace=namespace, name="task", model_size="small", output=Text(), guidance=[*guidance])


def tone(namespace: str, *shared_with: str) -> Guidance:
    return Guidance(
        namespace=namespace, name="tone", form="text_prompt", text="THEIR OWN WORDS", shared_with=[*shared_with]
    )


async def test_it_applies_and_deletes_in_its_own_namespace(teams: Teams) -> None:
    ns = teams.mine
    assert await teams.apply(ns, tone(ns)) == [f"guidance {ns}/tone@1"]
    assert await teams.apply(ns, tone(ns, teams.theirs)) == [f"guidance {ns}/tone@2"]
    assert await delete_entry(teams.settings(ns), Identity.of(tone(ns)), "2", anyway=False) == [2]
    assert await teams.apply(ns, tone(ns, "*")) == [f"guidance {ns}/tone@3"]
    assert teams.told == []


async def test_topics_that_it_may_not_create_are_waited_for(teams: Teams) -> None:
    ns = teams.mine
    applying = asyncio.create_task(teams.apply(ns, endpoint(ns)))
    async with asyncio.timeout(30):
        while not teams.told:
            await asyncio.sleep(0.1)
    assert "waiting for 3 topics, which the platform makes" in teams.told[0]
    inside = teams.secured.kafka.internal
    async with CatalogueFollower(inside) as reader:
        assert reader.catalogue.endpoint(ns, "task")[0] == 1, "it is published before, for others to see what to make"
    await make_topics(inside, topics.wanted([endpoint(ns)]))
    for topic in (event_topic(ns, "task"), reply_topic(ns, "task")):
        teams.secured.allow(ns, "read", "describe", topic=topic)
    teams.secured.allow(ns, "describe", topic=dead_letter_topic(event_topic(ns, "task")))
    assert await applying == [f"endpoint {ns}/task@1"]
    assert len(teams.told) == 1


async def test_without_waiting_it_is_told_who_makes_them(teams: Teams) -> None:
    assert await teams.apply(teams.mine, endpoint(teams.mine), wait_s=0) == [f"endpoint {teams.mine}/task@1"]
    [told] = teams.told
    assert "`guideway steward` makes them" in told


async def test_of_topics_that_should_be_there_it_is_told_at_once(teams: Teams) -> None:
    """They are there and hidden, or gone: to wait would not help, for what is published was published before."""
    ns = teams.mine
    await make_topics(teams.secured.kafka.internal, topics.wanted([endpoint(ns)]))
    await teams.apply(ns, endpoint(ns), wait_s=0)
    teams.told.clear()
    async with asyncio.timeout(100):
        assert await teams.apply(ns, endpoint(ns), wait_s=1e6) == [f"endpoint {ns}/task@1"]
    [told] = teams.told
    assert f"sees no topic gw.{ns}.task.in.v1, gw.{ns}.task.in.v1.dlq, gw.{ns}.task.out.v1, and nobody" in told


async def test_in_anothers_namespace_it_may_do_nothing(teams: Teams) -> None:
    """One sentence that names the namespace and the right, and nothing of what is there."""
    theirs = teams.theirs
    await teams.apply(theirs, tone(theirs))
    for attempt in (
        teams.apply(teams.mine, tone(theirs)),
        teams.apply(teams.mine, endpoint(theirs)),
        teams.apply(teams.mine, tone(teams.mine), endpoint(theirs)),
        teams.apply(teams.mine, SMALL),
        delete_entry(teams.settings(teams.mine), Identity.of(tone(theirs)), None, anyway=True),
        delete_entry(teams.settings(teams.mine), Identity.of(SMALL), None, anyway=True),
    ):
        with pytest.raises(Refusal) as caught:
            await attempt
        assert caught.value.code is FailureCode.NOT_ALLOWED
        assert "this user may change nothing of namespace" in caught.value.message
        assert "catalogue.writer" in caught.value.message
        assert "OWN WORDS" not in caught.value.message
    async with CatalogueFollower(teams.secured.kafka.internal) as reader:
        assert reader.catalogue.versions(Identity.of(tone(theirs))) == [1]
        assert reader.catalogue.versions(Identity.of(endpoint(theirs))) == []


async def test_what_is_hidden_is_noted_and_not_refused(teams: Teams) -> None:
    theirs = teams.theirs
    await teams.apply(theirs, tone(theirs, teams.mine))
    async with CatalogueFollower(teams.settings(teams.mine).cluster()) as reader:
        assert {one.namespace for _, one in reader.catalogue} <= {teams.mine, "public"}
    await teams.apply(teams.mine, endpoint(teams.mine, f"{theirs}/tone"), wait_s=0)
    assert f"names {theirs}/tone, and namespace {theirs} is hidden from this user" in teams.told[0]
    with pytest.raises(Refusal, match="there is no guidance"):
        await teams.apply(teams.mine, endpoint(teams.mine, f"{teams.mine}/nothing"), wait_s=0)
