"""The rights of a namespace: each principal can do its own, and nothing of another's."""

from __future__ import annotations

import msgspec
import pytest

from guideway.infra.rights.right import Right, missing
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.spaces import Services, Space, fixed_topics, space_rights
from guideway.infra.rights.survey import Survey

SERVICES = Services()
T1 = Space("t1", team=("User:t1",), callers=("User:web",), endpoints=("orders",), reply_addresses=("spring",))
T10 = Space("t10", team=("User:t10",), endpoints=("orders",))


def may(rights: list[Right], principal: str, operation: str, name: str) -> bool:
    wanted = Right(principal, "topic", "literal", name, operation)  # type: ignore[arg-type]
    return not missing([wanted], rights)


def test_a_team_has_what_it_needs_and_writes_no_reply_and_no_dead_letter() -> None:
    rights = space_rights(T1, SERVICES)
    for topic in (
        *("gw.t1.orders.in.v1", "gw.t1.call.v1", "gw.t1.catalogue.v1", "gw.t1.training.v1"),
        "gw.t1.shadows.v1",
    ):
        assert may(rights, "User:t1", "write", topic)
        assert may(rights, "User:t1", "read", topic)
    for topic in (
        *("gw.t1.orders.out.v1", "gw.t1.call.out.v1", "gw.t1.spring.out.v1", "gw.t1.training-events.v1"),
        *("gw.t1.orders.in.v1.dlq", "gw.t1.call.v1.dlq", "gw.t1.training.v1.dlq", "gw.public.catalogue.v1"),
    ):
        assert may(rights, "User:t1", "read", topic)
        assert not may(rights, "User:t1", "write", topic)


def test_a_caller_publishes_and_reads_replies_and_applies_nothing() -> None:
    rights = space_rights(T1, SERVICES)
    assert may(rights, "User:web", "write", "gw.t1.orders.in.v1")
    assert may(rights, "User:web", "read", "gw.t1.orders.out.v1")
    for topic in ("gw.t1.catalogue.v1", "gw.t1.training.v1", "gw.t1.training-cancel.v1", "gw.t1.shadows.v1"):
        assert not may(rights, "User:web", "write", topic)
    assert not may(rights, "User:web", "read", "gw.t1.orders.in.v1")
    assert not [one for one in rights if one.principal == "User:web" and one.name == "gw.t1.catalogue.writer"]


def test_batchers_call_for_jobs_and_nobody_else_reads_what_these_are_answered() -> None:
    rights, replies = space_rights(T1, SERVICES), "gw.t1.batch-replies.out.v1"
    assert [one.principal for one in rights if (one.name, one.operation) == (replies, "read")] == ["User:gw-batcher"]
    assert may(rights, "User:gw-endpoints", "write", replies)
    assert may(rights, "User:gw-endpoints", "read", "gw.t1.batch-call.v1")
    assert may(rights, "User:gw-batcher", "write", "gw.t1.batch-call.v1")
    for topic in ("gw.t1.call.v1", "gw.t1.batch.v1", "gw.t1.batch-cancel.v1", "gw.t1.catalogue.v1"):
        assert not may(rights, "User:gw-batcher", "write", topic)
    for topic in ("gw.t1.batch.v1", "gw.t1.batch-cancel.v1"):
        assert may(rights, "User:t1", "write", topic)
        assert not may(rights, "User:web", "write", topic)
    assert not may(rights, "User:t1", "write", "gw.t1.batch-events.v1")


def test_pieces_of_texts_are_written_by_workers_and_read_by_who_reads_the_replies() -> None:
    told = msgspec.structs.replace(T1, partial=("orders",))
    rights, topic = space_rights(told, SERVICES), "gw.t1.orders.partial.v1"
    assert [may(rights, one, "read", topic) for one in ("User:t1", "User:web", "User:t10")] == [True, True, False]
    assert [one.principal for one in rights if one.name == topic and one.operation == "write"] == ["User:gw-worker"]
    assert may(rights, "User:gw-endpoints", "describe", topic)
    gateway = "gw.t1.gateway.partial.v1"
    assert may(rights, "User:gw-endpoints", "describe", gateway)
    assert may(rights, "User:gw-worker", "write", gateway)
    assert not may(rights, "User:t1", "read", gateway)
    assert not [one for one in space_rights(T1, SERVICES) if one.name == topic]
    seen = Survey(topics={topic: 1, gateway: 1, "gw.t1.orders.in.v1": 1}, rights=(), quotas={})
    assert seen.space("t1", ["orders"]).partial == ("orders",)


def test_no_team_has_a_right_on_anything_of_another_whose_name_begins_alike() -> None:
    ours, theirs = space_rights(T1, SERVICES), space_rights(T10, SERVICES)
    of_t1 = [one for one in ours if one.principal in ("User:t1", "User:web")]
    for right in theirs:
        if right.principal == "User:t10" and right.name != "gw.public.catalogue.v1":
            as_t1 = Right("User:t1", right.resource, right.pattern, right.name, right.operation)
            assert missing([as_t1], of_t1) == [as_t1], right


def test_rights_of_teams_on_topics_are_literal_and_prefixes_end_in_a_dot() -> None:
    for right in space_rights(T1, SERVICES):
        if right.resource == "topic":
            assert right.pattern == "literal"
        if right.pattern == "prefix":
            assert right.name == "t1."


@pytest.mark.parametrize("namespace", ["infer", "gw", "catalogue", "training"])
def test_namespaces_whose_groups_or_topics_would_be_ours_are_reserved(namespace: str) -> None:
    from guideway.schemas.names.addresses import RESERVED_NAMESPACES

    assert namespace in RESERVED_NAMESPACES


def test_no_service_can_write_what_is_not_its_own_to_write() -> None:
    rights = [*space_rights(T1, SERVICES), *service_rights(SERVICES, ["small"])]
    catalogue, requests = "gw.t1.catalogue.v1", "gw.infer.small.batch.v1"
    assert [may(rights, one, "write", catalogue) for one in ("User:gw-endpoints", "User:gw-worker")] == [False, False]
    assert may(rights, "User:gw-trainer", "write", catalogue)
    assert may(rights, "User:gw-endpoints", "write", requests)
    assert not may(rights, "User:gw-worker", "write", requests)
    assert may(rights, "User:gw-worker", "write", f"{requests}.dlq")
    assert not may(rights, "User:gw-endpoints", "read", requests)
    assert not may(rights, "User:gw-worker", "read", "gw.t1.orders.in.v1")
    assert not may(rights, "User:gw-trainer", "read", "gw.t1.orders.in.v1")
    for one in SERVICES.all:
        assert not may(rights, one, "write", "gw.t1.orders.in.v1")
        assert not may(rights, one, "read", "gw.audit.v1")


def test_who_belongs_to_a_namespace_is_read_off_the_rights() -> None:
    rights = (*space_rights(T1, SERVICES), *space_rights(T10, SERVICES), *service_rights(SERVICES, []))
    topics = {one.name: 1 for one in fixed_topics("t1")} | {"gw.t1.orders.in.v1": 1, "gw.t1.orders.out.v1": 1}
    survey = Survey(topics=topics | {"gw.t1.spring.out.v1": 1, "other": 3}, rights=rights, quotas={})
    assert survey.namespaces() == ["public", "t1", "t10"]
    assert survey.space("t1", ["orders"]) == T1
    assert survey.space("t10", ["orders"]) == T10
    assert survey.services == SERVICES


def test_services_may_log_in_under_other_names() -> None:
    services = Services(worker=("User:CN=worker-1", "User:CN=worker-2"))
    rights = (*space_rights(T1, services), *service_rights(services, ["small"]))
    assert Survey(topics={}, rights=rights, quotas={}).services == services
    assert may([*rights], "User:CN=worker-2", "write", "gw.t1.orders.out.v1")
