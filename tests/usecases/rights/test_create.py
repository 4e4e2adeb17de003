"""`namespaces create` and `services create` on a cluster that denies everything by default."""

from __future__ import annotations

import pytest
from tests.secured.cluster import SecuredCluster
from tests.usecases.rights.surveys import survey_of, survey_when

from guideway.delivery.clients.administrator import administrator
from guideway.infra.local_broker import RunningBroker
from guideway.infra.rights import held
from guideway.infra.rights.as_commands import as_commands
from guideway.infra.rights.right import Right, missing
from guideway.infra.rights.setup import USUAL, Quota, Setup
from guideway.infra.rights.spaces import Services, Space, space_rights
from guideway.schemas.failures import FailureCode, Refusal
from guideway.usecases.rights.create import Wanted, create_namespace, create_services, namespace_setup


async def test_a_namespace_is_made_once_and_made_more_of(secured: SecuredCluster, unique_name: str) -> None:
    cluster, ns = secured.kafka.internal, unique_name
    made = await create_namespace(cluster, Wanted(ns, (f"User:{ns}",)))
    assert f"gw.{ns}.catalogue.v1" in made.topics
    assert made.holds_rights
    assert made.quotas == {f"User:{ns}": USUAL}
    survey = await survey_of(cluster)
    assert survey.rights is not None
    space = Space(ns, (f"User:{ns}",))
    assert survey.space(ns, []) == space
    assert missing(space_rights(space, survey.services), survey.rights) == []
    assert survey.quotas[ns]["producer_byte_rate"] == USUAL.produced_bytes_per_s

    again = await create_namespace(cluster, Wanted(ns))
    assert (again.topics, again.rights, again.quotas) == ((), (), {})

    more = await create_namespace(
        cluster, Wanted(ns, (), (f"User:{ns}-web",), ("spring",), Quota(1e6, None, None, None))
    )
    assert more.topics == (f"gw.{ns}.spring.out.v1",)
    assert more.space == Space(ns, (f"User:{ns}",), (f"User:{ns}-web",), (), ("spring",))
    assert {one.principal for one in more.rights} == {f"User:{ns}", f"User:{ns}-web", *survey.services.endpoints} | {
        *survey.services.worker
    }
    survey = await survey_of(cluster)
    assert survey.quotas[f"{ns}-web"] == {"producer_byte_rate": 1e6}
    assert survey.quotas[ns]["producer_byte_rate"] == USUAL.produced_bytes_per_s


async def test_kafkas_own_tool_sees_and_takes_the_same_rights(secured: SecuredCluster, unique_name: str) -> None:
    """What `--print kafka-acls` prints gives what the command itself gives."""
    cluster, ns = secured.kafka.internal, unique_name
    _, setup, _ = await namespace_setup(cluster, Wanted(ns, (f"User:{ns}",)))
    some = Setup((), setup.rights[:3], {})
    for line in as_commands(some, 1).splitlines():
        if line.startswith("kafka-acls.sh"):
            done = secured.tool("acls", *line.removeprefix("kafka-acls.sh $ADMIN ").split())
            assert done.returncode == 0, done.stdout + done.stderr
    async with administrator(cluster) as admin:
        there = await held.held(admin)
        assert there is not None
        assert missing(some.rights, there) == []
        await held.revoke(admin, some.rights)
    await survey_when(cluster, lambda survey: missing(some.rights, survey.rights or ()) == [*some.rights])


async def test_our_services_rights_reach_namespaces_that_are_there(secured: SecuredCluster, unique_name: str) -> None:
    cluster, ns = secured.kafka.internal, unique_name
    await create_namespace(cluster, Wanted(ns, (f"User:{ns}",)))
    services = Services(worker=("User:gw-worker", f"User:{ns}-worker"))
    wanted = Right(f"User:{ns}-worker", "topic", "literal", f"gw.{ns}.call.out.v1", "write")
    try:
        await create_services(cluster, services)
        survey = await survey_when(cluster, lambda survey: missing([wanted], survey.rights or ()) == [])
        assert survey.services == services
    finally:
        rights = (await survey_of(cluster)).rights or ()
        async with administrator(cluster) as admin:
            await held.revoke(admin, [one for one in rights if one.principal == f"User:{ns}-worker"])


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted("Shop"), "can be no namespace"),
        (Wanted("infer"), "reserved"),
        (Wanted("gw"), "reserved"),
        (Wanted("shop", ("shop",)), "User:NAME"),
        (Wanted("shop", ("User:gw-worker",)), "a service of ours"),
        (Wanted("shop", ("User:a",), ("User:a",)), "--principal and as --caller"),
        (Wanted("shop", ("User:a",), (), ("call",)), "no reply address"),
        (Wanted("shop", ("User:a",), (), ("a.b",)), "no reply address"),
    ],
)
async def test_what_should_not_be_made_is_refused(wanted: Wanted, why: str) -> None:
    with pytest.raises(Refusal, match=why) as refused:
        await namespace_setup(None, wanted)
    assert refused.value.code is FailureCode.INVALID_SETTING


async def test_a_cluster_without_rights_gets_topics_only(broker: RunningBroker, unique_name: str) -> None:
    made = await create_namespace(broker.cluster, Wanted(unique_name, ("User:shop",)))
    assert not made.holds_rights
    assert (made.rights, made.quotas) == ((), {})
    assert f"gw.{unique_name}.call.v1" in made.topics
