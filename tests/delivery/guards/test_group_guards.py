"""Each guard for groups against the client code that it mends: an aiokafka that changes fails here first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.protocol.coordination import FindCoordinatorRequest, FindCoordinatorResponse_v1
from aiokafka.protocol.group import HeartbeatResponse_v1, SyncGroupResponse_v3
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.guards import aiokafka_guards, group_guards


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


def _coordinator(answer: Any) -> GroupCoordinator:
    class FakeClient:
        def __init__(self) -> None:
            self.answer = answer
            self.names: dict[int, int] = {}
            """Whom each of the other brokers names as coordinator; 0: it does not answer."""
            self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=node) for node in [1, *self.names]])

        async def send(self, node: int, request: Any, group: Any = None) -> Any:
            if not isinstance(request, FindCoordinatorRequest):
                return self.answer
            if not self.names[node]:
                await asyncio.sleep(60)
            return FindCoordinatorResponse_v1(0, 0, "", self.names[node], "", 0)

    coordinator = GroupCoordinator.__new__(GroupCoordinator)
    coordinator.group_id, coordinator.coordinator_id = "g", 1
    coordinator._client = FakeClient()
    coordinator._coordinator_dead_fut = asyncio.get_running_loop().create_future()
    return coordinator


@pytest.mark.parametrize("code", [14, 15, 16, 30])
async def test_offset_fetch_raises_the_answers_own_error(code: int) -> None:
    with pytest.raises(errors.KafkaError) as caught:
        await _coordinator(OffsetFetchResponse_v3(0, [], code))._do_fetch_commit_offsets([TopicPartition("t", 0)])
    assert caught.value.errno == code


async def test_offset_fetch_raises_where_a_partition_is_left_out_and_not_where_it_has_no_commit() -> None:
    answer = OffsetFetchResponse_v3(0, [("t", [(0, -1, "", 0)])], 0)
    assert await _coordinator(answer)._do_fetch_commit_offsets([TopicPartition("t", 0)]) == {}
    with pytest.raises(group_guards.AnswerLeftOut, match="'t', 1"):
        await _coordinator(answer)._do_fetch_commit_offsets([TopicPartition("t", 0), TopicPartition("t", 1)])


@pytest.mark.parametrize("names", [{}, {2: 1}, {2: 1, 3: 0}])
async def test_a_committed_offset_counts_where_other_brokers_name_who_told_it(
    names: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_guards, "_CONFIRM_S", 0.05)
    coordinator = _coordinator(OffsetFetchResponse_v3(0, [("t", [(0, 7, "", 0)])], 0))
    coordinator._client.names = names
    found = await coordinator._do_fetch_commit_offsets([TopicPartition("t", 0)])
    assert found == {TopicPartition("t", 0): OffsetAndMetadata(7, "")}


@pytest.mark.parametrize("names", [{2: 2}, {2: 2, 3: 1}, {2: 0}, {2: -1, 3: 0}])
async def test_it_does_not_where_they_name_another_or_none_answers(
    names: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that was paused, and replaced meanwhile, wakes and tells what it knew."""
    monkeypatch.setattr(group_guards, "_CONFIRM_S", 0.05)
    coordinator = _coordinator(OffsetFetchResponse_v3(0, [("t", [(0, 7, "", 0)])], 0))
    coordinator._client.names = names
    with pytest.raises(group_guards.CoordinatorInDoubt) as caught:
        await coordinator._do_fetch_commit_offsets([TopicPartition("t", 0)])
    assert caught.value.retriable
    assert coordinator.coordinator_id is None


async def test_the_clients_own_look_at_what_was_committed_is_tried_again_after_any_error() -> None:
    """Else the task that looks ends, and every `getmany` raises why."""
    coordinator = _coordinator(OffsetFetchResponse_v3(0, [], errors.GroupAuthorizationFailedError.errno))
    coordinator._retry_backoff_ms = 10
    assignment = Assignment([TopicPartition("t", 0)])
    assignment.state_value(TopicPartition("t", 0)).fetch_committed()
    looking = asyncio.create_task(coordinator._commit_refresh_routine(assignment))
    await asyncio.sleep(0.05)
    assert not looking.done()
    coordinator._client.answer = OffsetFetchResponse_v3(0, [("t", [(0, 7, "", 0)])], 0)
    async with asyncio.timeout(5):
        while assignment.requesting_committed():
            await asyncio.sleep(0.01)
    looking.cancel()
    await looking


def _member(answer: Any) -> GroupCoordinator:
    coordinator = _coordinator(answer)
    coordinator.generation, coordinator.member_id, coordinator._group_instance_id = 3, "me", None
    coordinator._rebalance_timeout_ms = 20_000
    coordinator._rejoin_needed_fut = asyncio.get_running_loop().create_future()
    return coordinator


def _syncing(member: GroupCoordinator) -> Any:
    return CoordinatorGroupRebalance(member, "g", 1, None, [], 10_000, 100)._on_join_follower()


@pytest.mark.parametrize(("kind", "id_"), [(errors.IllegalGenerationError, "me"), (errors.UnknownMemberIdError, "")])
async def test_only_a_member_that_the_group_does_not_know_takes_a_new_id(kind: Any, id_: str) -> None:
    beating, syncing = _member(HeartbeatResponse_v1(0, kind.errno)), _member(SyncGroupResponse_v3(0, kind.errno, b""))
    await beating._do_heartbeat()
    assert await _syncing(syncing) is None
    for member in (beating, syncing):
        assert member.member_id == id_
        assert member._rejoin_needed_fut.done()


async def test_a_member_that_is_given_no_assignment_joins_again() -> None:
    member = _member(SyncGroupResponse_v3(0, 0, b""))
    assert await _syncing(member) is None
    assert member._rejoin_needed_fut.done()
    assert member.member_id == "me"
    assert await _syncing(_member(SyncGroupResponse_v3(0, 0, b"one"))) == b"one"
