"""What namespaces use is told while there is anything, and is believed for as long as its process tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.telling.usage_teller import MOST, UsageTeller, _most
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.services.usage import Usage, Used, added
from guideway.usecases.rights.show import Use, uses
from guideway.usecases.rights.usage import used_now


def told(service: Any, **namespaces: Used) -> Usage:
    return Usage(at_ms=1, service=service, process="p", namespaces=namespaces)


def test_processes_are_added_up_and_of_rows_the_most_counts() -> None:
    one = told("endpoints", shop=Used(requests_per_minute=3, waiting=2), a=Used(waiting=1))
    two = told("endpoints", shop=Used(requests_per_minute=4, tokens_per_minute=9))
    workers = {number: told("worker", shop=Used(rows=number)) for number in (5, 7)}
    found = added({"1": one, "2": two, "3": workers[5], "4": workers[7]})
    assert found == {
        "shop": Used(requests_per_minute=7, tokens_per_minute=9, waiting=2, rows=7),
        "a": Used(waiting=1),
    }


def test_of_many_namespaces_those_are_told_that_have_most_waiting() -> None:
    many = {f"n{number}": Used(waiting=number) for number in range(2 * MOST)}
    assert {*_most(many)} == {f"n{number}" for number in range(MOST, 2 * MOST)}
    assert _most({"a": Used()}) == {}


def test_what_nobody_tells_is_not_known_and_what_nobody_counts_neither() -> None:
    limits = Namespace(namespace="public", name="shop", requests_per_minute=600, rows=8, endpoints=5)
    found = uses(limits, {"endpoints": 2}, {"shop": Used(requests_per_minute=12, waiting=3)})
    assert found["endpoints"] == Use(used=2, limit=5)
    assert found["requests_per_minute"] == Use(used=12, limit=600)
    assert found["rows"] == Use(used=0, limit=8)
    assert found["waiting"] == Use(used=3, limit=None)
    assert found["tokens_per_minute"] == found["store_bytes"] == Use(used=None, limit=None)
    unknown = uses(limits, {}, None)
    assert {one.used for one in unknown.values()} == {None}
    assert uses(limits, {}, {})["requests_per_minute"] == Use(used=0, limit=600)


async def test_it_is_told_while_there_is_anything(broker: RunningBroker) -> None:
    cluster, using = broker.cluster, dict[str, Used]()

    async def until(wanted: Mapping[str, Used]) -> None:
        async with asyncio.timeout(60):
            while await used_now(cluster) != wanted:
                await asyncio.sleep(0.1)

    directory = TopicDirectory(cluster, "test")
    await directory.start()
    try:
        async with UsageTeller(cluster, directory, "endpoints", lambda: using, tell_s=0.05):
            using["shop"] = Used(waiting=4)
            await make_topics(cluster, [topics.USAGE])
            await until({"shop": Used(waiting=4)})
            async with UsageTeller(cluster, directory, "worker", lambda: {"shop": Used(rows=2)}, tell_s=0.05):
                await until({"shop": Used(waiting=4, rows=2)})
            using.clear()
            await until({"shop": Used(rows=2)})
    finally:
        await directory.stop()


async def test_what_was_told_long_ago_is_not_believed(broker: RunningBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = broker.cluster
    await make_topics(cluster, [topics.USAGE])
    now_ns = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("guideway.usecases.rights.usage.time.time_ns", lambda: now_ns)
    assert await used_now(cluster) == {}
