"""What aiokafka 0.14.0 cannot ask: what we may do with topics, groups, transactional ids and the cluster.

Its request for groups asks, and reads the answer as one of an earlier version. What is private in it and used all the
same is its way to send a request to a broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

_GROUP, _TRANSACTION = 0, 1
"""Whose coordinator is asked for."""
_TEXT: Final = String("utf-8")


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    )


class _MetadataStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _AllowedOperations(Request[_MetadataStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(list(self._topics), False, True, True)


class _DescribeGroupsStruct(DescribeGroupsRequest_v3):  # type: ignore[misc]
    # aiokafka reads the answer as one of version 2, which has no operations.
    API_KEY = DescribeGroupsRequest_v3.API_KEY
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = DescribeGroupsRequest_v3.SCHEMA


class _DescribingGroup(Request[_DescribeGroupsStruct]):  # type: ignore[misc]
    API_KEY = DescribeGroupsRequest_v3.API_KEY

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([self._group], True)


class Allowed(NamedTuple):
    """What the cluster says that we may do, as sets of Kafka's numbers of operations."""

    cluster: frozenset[int]
    topics: Mapping[str, frozenset[int]]
    """Only of topics that are there; empty where we may not even see it."""


async def allowed(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> Allowed:
    """What we may do with the cluster and with these topics. Raises KafkaError."""
    response = await admin._send_request(_AllowedOperations(topics))
    found = {}
    for code, name, _, _, operations in response.topics:
        kind = errors.for_code(code)
        if kind is errors.TopicAuthorizationFailedError:
            found[name] = frozenset[int]()
        elif kind is errors.NoError or kind is errors.LeaderNotAvailableError:
            found[name] = _set(operations)
    return Allowed(_set(response.authorized_operations), found)


async def allowed_of_group(admin: AIOKafkaAdminClient, group: str) -> frozenset[int]:
    """What we may do with a consumer group, which need not be there. Raises KafkaError."""
    try:
        node = await _coordinator(admin, group, _GROUP)
        response = await admin._send_request_to_node(node, _DescribingGroup(group))
        ((code, *_, operations),) = response.groups
        _require(code)
    except errors.GroupAuthorizationFailedError:
        return frozenset()
    return _set(operations)


async def knows_transactional_id(admin: AIOKafkaAdminClient, name: str) -> bool:
    """Whether we have a right on a transactional id, which one is not told. Raises KafkaError."""
    try:
        await _coordinator(admin, name, _TRANSACTION)
    except errors.TransactionalIdAuthorizationFailed:
        return False
    return True


async def _coordinator(admin: AIOKafkaAdminClient, name: str, kind: int) -> int:
    for pause_s in (0.2, 0.5, 1.0, 2.0, None):
        response = await admin._send_request(FindCoordinatorRequest(name, kind))
        # The topic of groups is made when the first one asks.
        if errors.for_code(response.error_code) is errors.GroupCoordinatorNotAvailableError and pause_s is not None:
            await asyncio.sleep(pause_s)
            continue
        break
    _require(response.error_code)
    return int(response.coordinator_id)


def _set(bits: int) -> frozenset[int]:
    # The smallest number stands for "not told".
    return frozenset(place for place in range(31) if bits >= 0 and bits >> place & 1)


def _require(code: int) -> None:
    if code:
        raise errors.for_code(code)()
