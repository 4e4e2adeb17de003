"""What a steward does next."""

from __future__ import annotations

import msgspec

from guideway.infra.rights.keeping import MOST_ENDPOINTS, Declared, work_for_services, work_on
from guideway.infra.rights.right import Right
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.spaces import Services, Space, fixed_topics, space_rights
from guideway.infra.rights.survey import Survey
from guideway.infra.topics import wanted
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.output import Text

SERVICES = Services()


def endpoint(name: str, partitions: int = 1, targets: tuple[str, ...] = (), *, partial: bool = False) -> Endpoint:
    return Endpoint(
        namespace="shop",
        name=name,
        model_size="small",
        output=Text(),
        partitions=partitions,
        targets=list(targets),
        partial=partial,
    )


def surveyed(*endpoints: Endpoint, granted: tuple[str, ...] = ()) -> Survey:
    """A cluster on which the namespace `shop` was made, with topics of these endpoints, and rights of those granted."""
    space = Space("shop", ("User:shop",), ("User:web",), granted)
    definitions = [*fixed_topics("public"), *fixed_topics("shop"), *wanted(endpoints)]
    return Survey(
        topics={one.name: one.partitions for one in definitions},
        rights=(*space_rights(space, SERVICES), *service_rights(SERVICES, ["small"])),
        quotas={},
    )


def test_a_new_endpoint_gets_topics_and_rights_of_team_callers_and_services() -> None:
    work = work_on(Declared("shop", [endpoint("orders", 3)]), surveyed())
    assert {one.name: one.partitions for one in work.topics} == {
        "gw.shop.orders.in.v1": 3,
        "gw.shop.orders.in.v1.dlq": 1,
        "gw.shop.orders.out.v1": 3,
    }
    assert {one.principal for one in work.grants} == {"User:shop", "User:web", "User:gw-endpoints", "User:gw-worker"}
    assert {one.name for one in work.grants} == {one.name for one in work.topics}
    assert (work.revocations, work.refused) == ([], {})


def test_topics_of_trials_that_are_no_more_are_left_over() -> None:
    trial, orders = endpoint("orders-replay-now"), endpoint("orders")
    survey = surveyed(trial, orders, granted=("orders", trial.name))
    topics = [
        "gw.shop.orders-replay-now.in.v1",
        "gw.shop.orders-replay-now.in.v1.dlq",
        "gw.shop.orders-replay-now.out.v1",
    ]
    assert work_on(Declared("shop", [orders]), survey).left_over == topics
    assert work_on(Declared("shop", []), survey).left_over == topics, "other endpoints keep their topics"
    assert work_on(Declared("shop", [trial, orders]), survey).left_over == []
    assert work_on(Declared("shop", [orders], unread={trial.name}), survey).left_over == []
    few = Namespace(namespace="public", name="shop", endpoints=1)
    assert work_on(Declared("shop", [orders, trial], limits=few), survey).left_over == [], "one too many is not gone"


def test_only_the_steward_deletes_topics_of_trials() -> None:
    rights = space_rights(Space("shop", ("User:shop",), endpoints=("orders", "orders-replay-new")), SERVICES)
    found = {(one.principal, one.name) for one in rights if one.operation == "delete"}
    assert found == {
        ("User:gw-steward", f"gw.shop.orders-replay-new.{what}.v1{more}")
        for what, more in (("in", ""), ("in", ".dlq"), ("out", ""))
    }


def test_where_all_is_there_nothing_is_done() -> None:
    orders = endpoint("orders")
    work = work_on(Declared("shop", [orders]), surveyed(orders, granted=("orders",)))
    assert (work.topics, work.grants, work.revocations) == ([], [], [])


def test_a_right_that_somebody_took_away_is_given_again() -> None:
    orders, lost = endpoint("orders"), Right("User:shop", "topic", "literal", "gw.shop.orders.out.v1", "read")
    survey = surveyed(orders, granted=("orders",))
    survey = Survey(topics=survey.topics, rights=tuple(one for one in survey.rights or () if one != lost), quotas={})
    assert work_on(Declared("shop", [orders]), survey).grants == [lost]


def test_nobody_writes_to_a_deleted_endpoint_and_what_stands_in_its_topics_is_still_answered_and_read() -> None:
    orders, kept = endpoint("orders"), endpoint("kept")
    work = work_on(Declared("shop", [kept]), surveyed(orders, kept, granted=("orders", "kept")))
    assert {*map(str, work.revocations)} == {
        "User:shop: write on topic gw.shop.orders.in.v1",
        "User:web: write on topic gw.shop.orders.in.v1",
    }
    assert work.grants == []


def test_rights_on_topics_that_are_no_more_go_and_what_others_were_granted_by_hand_stays() -> None:
    orders, kept = endpoint("orders"), endpoint("kept")
    survey = surveyed(kept, granted=("orders", "kept"))
    by_hand = Right("User:lake", "topic", "literal", "gw.shop.orders.out.v1", "read")
    survey = Survey(topics=survey.topics, rights=(*(survey.rights or ()), by_hand), quotas={})
    work = work_on(Declared("shop", [kept]), survey)
    assert {one.name for one in work.revocations} == {
        *("gw.shop.orders.in.v1", "gw.shop.orders.in.v1.dlq", "gw.shop.orders.out.v1"),
    }
    assert {one.principal for one in work.revocations} == {
        *("User:shop", "User:web", "User:gw-endpoints", "User:gw-worker"),
    }
    assert work_on(Declared("shop", [kept, orders]), survey).revocations == []


def test_a_vanished_endpoint_whose_reply_topic_is_a_target_keeps_rights_on_that_topic() -> None:
    kept = endpoint("kept", targets=("orders",))
    work = work_on(Declared("shop", [kept]), surveyed(kept, granted=("orders", "kept")))
    assert {one.name for one in work.revocations} == {"gw.shop.orders.in.v1", "gw.shop.orders.in.v1.dlq"}


def test_nothing_is_taken_from_an_endpoint_that_cannot_be_read() -> None:
    orders = endpoint("orders")
    survey = surveyed(orders, granted=("orders",))
    assert work_on(Declared("shop", [], unread=frozenset({"orders"})), survey).revocations == []


def test_limits_are_kept_and_say_why() -> None:
    limits = Namespace(namespace="public", name="shop", endpoints=2, partitions=10)
    declared = Declared("shop", [endpoint("a", 4), endpoint("b", 7), endpoint("c", 6)], limits=limits)
    work = work_on(declared, surveyed())
    assert [one.name for one in work.topics if one.name.endswith("in.v1")] == ["gw.shop.a.in.v1", "gw.shop.c.in.v1"]
    assert work.refused.keys() == {"b"}
    assert "may have 10 partitions, 4 are taken" in work.refused["b"]
    assert not [one for one in work.grants if ".b." in one.name]


def test_who_was_there_first_stays_within_the_limits() -> None:
    limits = Namespace(namespace="public", name="shop", endpoints=1)
    old, new = endpoint("z"), endpoint("a")
    work = work_on(Declared("shop", [new, old], limits=limits), surveyed(old, granted=("z",)))
    assert work.refused == {
        "a": "namespace shop may have 1 endpoints: delete one, or ask whoever runs the cluster for more"
    }
    assert work.topics == []


def test_topics_of_deleted_endpoints_count_so_that_nobody_fills_the_cluster_by_turns() -> None:
    limits = Namespace(namespace="public", name="shop", partitions=10)
    gone, new = endpoint("gone", 8), endpoint("new", 4)
    work = work_on(Declared("shop", [new], limits=limits), surveyed(gone))
    assert "8 are taken (also by topics of endpoints that were deleted)" in work.refused["new"]


def test_a_cluster_without_rights_gets_topics_only() -> None:
    survey = Survey(topics={one.name: one.partitions for one in fixed_topics("shop")}, rights=None, quotas={})
    work = work_on(Declared("shop", [endpoint("orders")]), survey)
    assert len(work.topics) == 3
    assert (work.grants, work.revocations) == ([], [])


def test_a_new_model_size_gets_its_topics_and_workers_the_right_to_its_dead_letters() -> None:
    large = Model(namespace="public", name="large", source="/models/large")
    work = work_for_services([large], surveyed())
    assert "gw.infer.large.batch.v1" in {one.name for one in work.topics}
    assert {str(one) for one in work.grants} == {
        f"User:gw-worker: write on topic gw.infer.large.{lane}.v1.dlq" for lane in ("interactive", "batch")
    }


def test_without_limits_topics_are_made_for_so_many_endpoints_and_what_is_there_stays() -> None:
    many = [endpoint(f"e{number:04}") for number in range(MOST_ENDPOINTS + 50)]
    work = work_on(Declared("shop", many), surveyed())
    assert len(work.topics) == 3 * MOST_ENDPOINTS
    assert len(work.refused) == 50
    assert "no limits of its own" in work.refused["e0149"]
    there = surveyed(*many, granted=tuple(one.name for one in many))
    work = work_on(Declared("shop", [*many, endpoint("new")]), there)
    assert (work.topics, work.revocations, [*work.refused]) == ([], [], ["new"])
    limits = Namespace(namespace="public", name="shop", endpoints=1000)
    assert work_on(Declared("shop", many, limits=limits), surveyed()).refused == {}
    wide = work_on(Declared("shop", [endpoint("a", 300), endpoint("b", 300), endpoint("c")], limits=limits), surveyed())
    assert [*wide.refused] == ["b"]


def test_topics_of_targets_count_as_well_so_that_no_namespace_fills_the_cluster_with_them() -> None:
    many = [Target(namespace="shop", name=f"t{number}", accepts_from=["*"], partitions=300) for number in range(3)]
    work = work_on(Declared("shop", [endpoint("orders")], targets=many), surveyed())
    assert [one.name for one in work.topics if ".t" in one.name] == ["gw.shop.t0.out.v1"]
    assert {*work.refused} == {"t1", "t2"}
    assert "gw.shop.t1.out.v1" not in {one.name for one in work.grants}
    named = endpoint("orders", 150, tuple(f"t{number}" for number in range(5)))
    work = work_on(Declared("shop", [named]), surveyed())
    assert {one.name for one in work.topics if ".t" in one.name} == {"gw.shop.t0.out.v1"}
    limited = Declared("shop", [endpoint("orders")], limits=Namespace(namespace="public", name="shop", partitions=700))
    work = work_on(msgspec.structs.replace(limited, targets=many), surveyed())
    assert {*work.refused} == {"t2"}
    # What is there stays, whatever the limit.
    made = {f"gw.shop.t{number}.out.v1": 300 for number in range(3)}
    there = Survey(topics={**surveyed().topics, **made}, rights=None, quotas={})
    assert work_on(Declared("shop", [], targets=many), there).refused == {}


def test_topics_of_pieces_count_as_well_and_an_endpoint_without_room_for_them_has_its_others() -> None:
    limits = Namespace(namespace="public", name="shop", partitions=10)
    told = [endpoint("a", 3, partial=True), endpoint("b", 3, partial=True)]
    work = work_on(Declared("shop", told, limits=limits), surveyed())
    made = {one.name for one in work.topics}
    assert {"gw.shop.a.partial.v1", "gw.shop.b.in.v1", "gw.shop.b.out.v1"} <= made
    assert "gw.shop.b.partial.v1" not in made | {one.name for one in work.grants}
    assert "may have 10 partitions, 9 are taken" in work.refused["b"]
    assert "its topic of pieces needs 3" in work.refused["b"]
    # What is there stays, and nothing is taken away where the limit was set later.
    there = surveyed(*told, granted=("a", "b"))
    kept = work_on(Declared("shop", told, limits=msgspec.structs.replace(limits, partitions=6)), there)
    assert (kept.topics, kept.revocations, kept.refused) == ([], [], {})


def test_topics_beside_endpoints_count_when_nobody_declares_them_any_more() -> None:
    """Else a namespace that declares others each time would fill the cluster."""
    limits = Namespace(namespace="public", name="shop", partitions=10)
    before = endpoint("a", 3, ("copies",), partial=True)
    there = surveyed(before, granted=("a",))
    now = endpoint("a", 3, ("others",))
    work = work_on(Declared("shop", [now, endpoint("b")], limits=limits), there)
    assert [one.name for one in work.topics if one.name.endswith(".in.v1")] == ["gw.shop.b.in.v1"]
    assert "may have 10 partitions, 10 are taken" in work.refused["others"]
    wide = work_on(Declared("shop", [now, endpoint("c", 2)], limits=limits), there)
    assert "9 are taken (also by topics of endpoints that were deleted) and this one needs 2" in wide.refused["c"]
