"""Guards over aiokafka 0.14.0 for groups: what was committed, and how a member stays one.

1. OffsetFetch: an error of the whole answer is raised, and so is an answer that leaves out a partition asked for.
   Unguarded both read as "nothing was ever committed", and the partition starts over from its first record.
8. A member that is told ILLEGAL_GENERATION joins again under its own id, as Apache's client does. Unguarded it joins as
   somebody new, and the group waits for who it was: for its session on Kafka; on noida-db, where a timer of an earlier
   round may end the present one without a member, for 20 s in each rebalance as long as the process lives.
9. A SyncGroup answer without an assignment, as noida-db gives to who was left out of a round, means to join again.
   Unguarded it ends the client's coordination for good.
10. The client's own look at what was committed is tried again after any error. Unguarded, one that is not retriable, as
    while a coordinator reads its access rules, is raised by every `getmany` from then on, and nothing is read until the
    next rebalance. Nobody needs what it looks for: positions are set from what `committed` tells.
11. What a coordinator says was committed counts only where other brokers, asked after its answer, name it too. A broker
    that was paused, and replaced meanwhile, answers what had reached it when it wakes, before it learns; brokers check
    what is written to them, and not what is read. Unguarded, what was committed in between is done and published again.
18. A member that may no longer read the group tries to join it again, for as long as that takes. Unguarded its
    heartbeats end for good, and it stays outside after it was given the right back.

What is private in aiokafka and used all the same stands here too: a committed offset together with its metadata, the
members of a group, and asking the group for a new assignment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import errors
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.sender import CoordinationType
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.guards import fetch_guards

_CONFIRM_S: Final = 2.0

_JOINS_AGAIN: Final = (errors.IllegalGenerationError.errno, errors.GroupAuthorizationFailedError.errno)

_plain_send_req = GroupCoordinator._send_req


class AnswerLeftOut(errors.KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """An answer does not speak of everything that was asked."""

    retriable = True


class CoordinatorInDoubt(errors.KafkaError):  # type: ignore[misc]
    """Who answered may not be the group's coordinator any more."""

    retriable = True


async def send_req(self: Any, request: Any) -> Any:
    """For `GroupCoordinator._send_req`: guards 1, 8, 9, 11 and 18."""
    node = self.coordinator_id
    response = await _plain_send_req(self, request)
    if isinstance(request, JoinGroupRequest) and response.error_code == errors.GroupAuthorizationFailedError.errno:
        # The group answers, and another process would be told the same.
        fetch_guards.note_heartbeat(self)
        return response
    if isinstance(request, HeartbeatRequest | SyncGroupRequest):
        if response.error_code in _JOINS_AGAIN or _is_empty_assignment(response):
            # To this the client answers by joining again, and keeps its member id.
            response.error_code = errors.RebalanceInProgressError.errno
        return response
    if not isinstance(request, OffsetFetchRequest):
        return response
    if code := getattr(response, "error_code", 0):
        kind = errors.for_code(code)
        if kind in (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError):
            self.coordinator_dead()
        raise kind()
    answered = {(topic, partition[0]) for topic, partitions in response.topics for partition in partitions}
    asked = {(topic, number) for topic, numbers in request._partitions or () for number in numbers}
    if not asked <= answered:
        raise AnswerLeftOut(f"no committed offset was told for {sorted(asked - answered)}")
    await _confirm_coordinator(self, node)
    return response


async def _confirm_coordinator(self: Any, node: int) -> None:
    """Raises CoordinatorInDoubt unless all brokers but `node` that answer soon, and one at least, name `node`."""
    others = [broker.nodeId for broker in self._client.cluster.brokers() if broker.nodeId != node]
    if not others:
        return
    request = FindCoordinatorRequest(self.group_id, CoordinationType.GROUP)
    asked = [asyncio.ensure_future(self._client.send(other, request)) for other in others]
    try:
        answered, _ = await asyncio.wait(asked, timeout=_CONFIRM_S)
    finally:
        for each in asked:
            each.cancel()
    named = {each.result().coordinator_id for each in answered if not each.cancelled() and each.exception() is None}
    if named != {node}:
        self.coordinator_dead()
        raise CoordinatorInDoubt(f"broker {node} told what was committed, and others name {sorted(named)}")


def _is_empty_assignment(response: Any) -> bool:
    return not response.error_code and not getattr(response, "member_assignment", b"some")


_plain_refresh = GroupCoordinator._maybe_refresh_commit_offsets


async def maybe_refresh_commit_offsets(self: Any, assignment: Any) -> bool:
    """For `GroupCoordinator._maybe_refresh_commit_offsets`: guard 10."""
    try:
        return bool(await _plain_refresh(self, assignment))
    except errors.KafkaError:
        return False


async def committed(consumer: Any, partition: TopicPartition) -> OffsetAndMetadata | None:
    """The group's committed offset *with metadata*, or None if there never was one. Raises KafkaError."""
    offsets = await consumer._coordinator.fetch_committed_offsets([partition])
    return offsets.get(partition)


async def all_committed(consumer: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
    """As `committed`, of many; those without a commit are left out. The consumer need not be in the group."""
    offsets: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(partitions)
    return {tp: found for tp, found in offsets.items() if found.offset >= 0}


async def members(consumer: Any) -> list[str]:
    """The client ids of the members of the consumer's group, which it need not be in. Raises KafkaError."""
    coordinator = consumer._coordinator
    while True:
        await coordinator.ensure_coordinator_known()
        response = await coordinator._send_req(DescribeGroupsRequest([coordinator.group_id]))
        ((code, _, _, _, _, found, *_),) = response.groups
        kind = errors.for_code(code)
        if kind is errors.NoError:
            return [client_id for _member_id, client_id, *_more in found]
        if kind in (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError):
            coordinator.coordinator_dead()
        elif kind is not errors.GroupLoadInProgressError:
            raise kind()
        await asyncio.sleep(0.1)


def request_rejoin(consumer: Any) -> None:
    """Have the group assign its partitions anew, which tells whether a partition is still ours."""
    consumer._coordinator.request_rejoin()
