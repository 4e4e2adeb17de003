"""A gateway on a cluster that denies everything by default: it needs the rights that it is given, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.producers.gateway.answering import answering
from tests.producers.gateway.http.serving import door
from tests.secured.cluster import SecuredCluster

from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.gateway import create_key, list_keys, revoke_key
from guideway.usecases.rights.create import Wanted, create_namespace, create_services


def logged_in(secured: SecuredCluster, principal: str) -> Cluster:
    cluster = Cluster.from_environ(secured.environ(principal))
    assert cluster is not None
    return cluster


async def test_who_may_not_read_keys_is_told_so_and_shown_no_empty_list(
    secured: SecuredCluster, unique_name: str, tmp_path: Path
) -> None:
    await create_key(Settings(home=tmp_path, store=os.devnull, named=secured.kafka.internal), unique_name)
    secured.add_principal(unique_name)
    team = Settings(home=tmp_path, store=os.devnull, named=logged_in(secured, unique_name))
    for trial in (list_keys(team), revoke_key(team, "0" * 16)):
        with pytest.raises(Refusal, match=r"shows no topic gw.keys.v1: .* or this user may not read it"):
            await trial
    secured.allow(unique_name, "describe", topic="gw.keys.v1")
    with pytest.raises(Refusal, match=r"does not allow .* gw\.keys\.v1: grant it Read") as raised:
        await list_keys(team)
    assert raised.value.code is FailureCode.NOT_ALLOWED


async def test_a_gateway_serves_with_its_own_rights(secured: SecuredCluster, unique_name: str, tmp_path: Path) -> None:
    admin, ns = secured.kafka.internal, unique_name
    await create_services(admin, None)
    await create_namespace(admin, Wanted(ns, (f"User:{ns}",)))
    _, text = await create_key(Settings(home=tmp_path, store=os.devnull, named=admin), ns)
    async with (
        answering(logged_in(secured, "gw-endpoints"), [ns]) as services,
        door(logged_in(secured, "gw-gateway"), {ns: text}) as gateway,
    ):
        assert (await gateway.client.get("/health/ready")).status_code == 200
        got = await gateway.post(ns, f"/{ns}/mood", "Good soup.")
        assert got.json()["samples"][0]["value"] == "Good soup."
        began = await gateway.post(ns, f"/{ns}/mood", "later", prefer="respond-async", idempotency_key="k")
        got = await gateway.client.get(began.headers["location"], headers=gateway.as_(ns, prefer="wait=30"))
        assert got.json()["samples"][0]["value"] == "later"
        got = await gateway.post(ns, f"/{ns}/mood", "whole", accept="text/event-stream")
        assert "event: completed" in got.text
        began = await gateway.post(ns, f"/{ns}/mood", "hold", prefer="respond-async")
        assert (await gateway.client.delete(began.headers["location"], headers=gateway.as_(ns))).status_code == 202
        assert len(services.seen) == 4
