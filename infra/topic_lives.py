"""Committed offsets of deleted topics, which noida-db keeps.

Apache Kafka deletes them with the topic. With noida-db, in a later topic of the same name a group would continue behind
the first records, and nobody would answer those. noida-db has no topic ids: a topic is new if it was away for a time,
or if its ends have gone back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.administrator import partitions_by_topic

LOOKS: Final = 60
"""For so many looks after a partition is gone its offsets are deleted again: members still commit when they leave."""
_LATEST: Final = -1


class TopicLives:
    """Which partitions are gone or new since the last look. Pure."""

    def __init__(self) -> None:
        self._ends: dict[TopicPartition, int] = {}
        self._gone: dict[TopicPartition, int] = {}
        """Partition that is gone → for how many more looks it is remembered."""

    def look(self, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """The partitions whose committed offsets are void, by the `ends` of all present partitions."""
        anew = {tp for tp, end in ends.items() if end < self._ends.get(tp, 0)}
        self._gone |= dict.fromkeys(self._ends.keys() - ends.keys(), LOOKS)
        self._gone = {tp: left - 1 for tp, left in self._gone.items() if left > 0 and tp not in ends}
        self._ends = dict(ends)
        return sorted({*anew, *self._gone})


async def ends(admin: AIOKafkaAdminClient) -> dict[TopicPartition, int]:
    """Partition → the offset after its last record, for all partitions of the one broker."""
    there = await partitions_by_topic(admin)
    asked = [
        (topic, [(partition["partition"], _LATEST) for partition in found])
        for topic, found in there.items()
        if not topic.startswith("__")
    ]
    if not asked:
        return {}
    node = next(iter(admin._client.cluster.brokers())).nodeId
    response = await admin._client.send(node, OffsetRequest(-1, 0, asked))
    return {
        TopicPartition(topic, number): offset
        for topic, found in response.topics
        for number, error, _timestamp, offset in found
        if not error
    }


async def forget(admin: AIOKafkaAdminClient, partitions: Collection[TopicPartition]) -> None:
    """Delete the committed offsets of these partitions in every group."""
    by_topic = [
        (topic, [tp.partition for tp in tps]) for topic, tps in groupby(sorted(partitions), lambda tp: tp.topic)
    ]
    for group, *_ in await admin.list_consumer_groups():
        coordinator = await admin.find_coordinator(group)
        await admin._client.send(coordinator, _OffsetDeleteRequest(group, by_topic))


class _OffsetDeleteResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 47
    API_VERSION = 0
    SCHEMA = Schema(
        ("error_code", Int16),
        ("throttle_time_ms", Int32),
        ("topics", Array(("name", String("utf-8")), ("partitions", Array(("number", Int32), ("error_code", Int16))))),
    )


class _OffsetDeleteRequest0(RequestStruct):  # type: ignore[misc]
    API_KEY = 47
    API_VERSION = 0
    RESPONSE_TYPE = _OffsetDeleteResponse
    SCHEMA = Schema(
        ("group", String("utf-8")), ("topics", Array(("name", String("utf-8")), ("partitions", Array(Int32))))
    )


class _OffsetDeleteRequest(Request[_OffsetDeleteRequest0]):  # type: ignore[misc]
    """KIP-496, which aiokafka lacks."""

    API_KEY = 47

    def __init__(self, group: str, topics: list[tuple[str, list[int]]]) -> None:
        self._group = group
        self._topics = topics

    def build(self, request_struct_class: type[_OffsetDeleteRequest0]) -> _OffsetDeleteRequest0:
        return request_struct_class(self._group, self._topics)
