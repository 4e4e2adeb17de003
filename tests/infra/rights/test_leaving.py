"""The rights of what leaves Kafka: none where nothing does, and then no more than is needed."""

from __future__ import annotations

from guideway.infra.rights.keeping import Declared, work_on
from guideway.infra.rights.right import Right
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.spaces import Services, Space, space_rights
from guideway.infra.rights.survey import Survey
from guideway.infra.topics import leaving, wanted
from guideway.schemas.kinds.targets import Target, WebhookUse
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text

WHO = "User:gw-targets"
PLAIN = Endpoint(namespace="shop", name="plain", model_size="small", output=Text(), targets=["plain", "/desk/inbox"])
HOOKED = Endpoint(
    namespace="shop", name="hooked", model_size="small", output=Text(), targets=[WebhookUse(webhook="crm")]
)
KEPT = Endpoint(namespace="shop", name="kept", model_size="small", output=Text(), archive=True)
INBOX = Target(namespace="desk", name="inbox", accepts_from=["shop"], partitions=2)


def rights_of(who: str, *, leaves: bool) -> set[tuple[str, str]]:
    space = Space("shop", team=("User:shop",), callers=("User:web",), endpoints=("hooked",), leaves=leaves)
    found = space_rights(space, Services())
    return {(one.operation, one.name) for one in found if one.principal == who and one.resource == "topic"}


def test_the_service_reads_what_leaves_and_no_events_no_replies() -> None:
    assert rights_of(WHO, leaves=False) == {("read", "gw.shop.catalogue.v1")}
    assert rights_of(WHO, leaves=True) == {
        ("read", "gw.shop.catalogue.v1"),
        ("read", "gw.shop.results.v1"),
        ("write", "gw.shop.results.v1.dlq"),
        ("read", "gw.shop.deliveries.v1"),
        ("write", "gw.shop.deliveries.v1"),
        ("write", "gw.shop.deliveries.v1.dlq"),
    }
    everywhere = [one for one in service_rights(Services(), ["small"]) if one.principal == WHO]
    assert {one.name for one in everywhere if one.resource == "topic"} == {"gw.webhooks.v1", "gw.calibrations.v1"}
    assert not [one for one in everywhere if one.pattern == "prefix" and one.resource == "topic"]


def test_a_team_replays_and_forges_no_result_and_a_caller_sees_nothing() -> None:
    team = rights_of("User:shop", leaves=True) - rights_of("User:shop", leaves=False)
    assert team == {
        ("read", "gw.shop.deliveries.v1"),
        ("write", "gw.shop.deliveries.v1"),
        ("read", "gw.shop.deliveries.v1.dlq"),
        ("read", "gw.shop.results.v1.dlq"),
    }
    assert rights_of("User:web", leaves=True) == rights_of("User:web", leaves=False)


def test_topics_are_there_where_something_leaves() -> None:
    ours = {one.name for one in leaving("shop")}
    assert not ours & {one.name for one in wanted([PLAIN])}
    assert ours <= {one.name for one in wanted([HOOKED])}
    assert ours <= {one.name for one in wanted([KEPT])}
    inbox = {one.name: one.partitions for one in wanted([INBOX])}
    assert inbox["gw.desk.inbox.out.v1"] == 2
    # Another namespace's topic is its own affair.
    assert "gw.desk.inbox.out.v1" not in {one.name for one in wanted([PLAIN])}


def test_a_steward_lets_our_services_write_where_a_namespace_accepts_results() -> None:
    survey = Survey(topics={"gw.desk.catalogue.v1": 1}, rights=(), quotas={})
    work = work_on(Declared("desk", [], targets=[INBOX]), survey)
    assert Right("User:gw-worker", "topic", "literal", "gw.desk.inbox.out.v1", "write") in work.grants
    assert "gw.desk.inbox.out.v1" in {one.name for one in work.topics}
    work = work_on(Declared("shop", [HOOKED]), survey)
    assert Right(WHO, "topic", "literal", "gw.shop.results.v1", "read") in work.grants
    assert "gw.shop.results.v1" in {one.name for one in work.topics}
