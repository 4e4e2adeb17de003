"""As whom we log in, and what we lack."""

from __future__ import annotations

import pytest
from tests.secured.cluster import SecuredCluster
from tests.usecases.rights.surveys import survey_when

from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.doctor import Check
from guideway.infra.rights import held
from guideway.infra.rights.right import Right
from guideway.schemas.failures import Refusal
from guideway.usecases.rights.create import Wanted, create_namespace, create_services
from guideway.usecases.rights.diagnosis import Guess, diagnosed, guessed, needed

FREE = ["gw.public.catalogue.v1", "gw.shop.catalogue.v1"]


@pytest.mark.parametrize(
    ("me", "visible", "free", "guess"),
    [
        ("User:gw-worker", [], False, Guess("worker")),
        ("User:shop", FREE, False, Guess("team", "shop")),
        ("User:shop", [*FREE, "gw.b.catalogue.v1"], False, Guess("team")),
        ("User:web", ["gw.shop.call.v1", "gw.shop.call.out.v1"], False, Guess("caller", "shop")),
        ("User:outsider", [], False, Guess("team")),
        ("User:admin", FREE, True, Guess(None)),
    ],
)
def test_what_somebody_probably_is(me: str, visible: list[str], free: bool, guess: Guess) -> None:
    assert guessed(me, visible, free=free) == guess


def test_a_service_needs_its_rights_on_every_namespace_that_is_to_be_seen() -> None:
    rights = needed("worker", None, "User:gw-worker", FREE, Catalogue())
    assert {one.principal for one in rights} == {"User:gw-worker"}
    assert "gw.shop.call.out.v1" in {one.name for one in rights}


async def of(secured: SecuredCluster, principal: str, role: str | None = None, ns: str | None = None) -> list[Check]:
    cluster = Cluster.from_environ(secured.environ(principal))
    assert cluster is not None
    return (await diagnosed(cluster, role, ns))[1]


async def test_who_has_all_rights_is_told_so_and_who_lacks_one_is_told_the_command(
    secured: SecuredCluster, unique_name: str
) -> None:
    ns, internal = unique_name, secured.kafka.internal
    secured.add_principal(ns)
    await create_services(internal, None)
    await create_namespace(internal, Wanted(ns, (f"User:{ns}",)))
    login, rights = await of(secured, ns)
    assert login.found == f"as User:{ns}, probably team of {ns}"
    assert rights.ok, rights

    lost = Right(f"User:{ns}", "topic", "literal", f"gw.{ns}.call.v1", "write")
    groups = Right(f"User:{ns}", "group", "prefix", f"{ns}.", "read")
    async with administrator(internal) as admin:
        await held.revoke(admin, [lost, groups])
    await survey_when(internal, lambda survey: not {lost, groups} & survey.held.exactly)
    _, rights = await of(secured, ns)
    assert not rights.ok
    assert rights.found.startswith("2 of ")
    assert f"guideway namespaces create {ns} --principal User:{ns}" in rights.mend
    line = f"--add --allow-principal User:{ns} --operation Write --topic gw.{ns}.call.v1"
    assert f"kafka-acls.sh --bootstrap-server {secured.brokers} --command-config admin.properties {line}" in rights.mend
    assert f"--group {ns}. --resource-pattern-type prefixed" in rights.mend

    login, rights = await of(secured, "gw-worker")
    assert (login.found, rights.ok) == ("as User:gw-worker, probably worker", True), rights


async def test_who_has_no_right_at_all(secured: SecuredCluster) -> None:
    _, rights = await of(secured, "outsider")
    assert not rights.ok
    assert "--principal User:outsider" in rights.mend
    with pytest.raises(Refusal, match="is no role"):
        await of(secured, "outsider", "king")


async def test_an_administrator_needs_no_right_more(secured: SecuredCluster) -> None:
    assert [one.found for one in await of(secured, "admin")] == ["as User:admin, who may give rights: needs no other"]
