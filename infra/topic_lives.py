"""What noida-db leaves behind of a topic that was deleted: the offsets that groups had committed there.

Apache Kafka deletes them with the topic. Where they stay, a group goes on in a topic of the same name that is made
later as if it had read its first records, and nobody ever answers these. noida-db has no topic ids, so whether a topic
is another one is told by its having been away, or by its ends having gone back.
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

from guideway.infra.topics import partitions_by_topic

LOOKS: Final = 60
"""For so many looks after a partition is gone it is seen to that nobody commits there once more, on leaving."""
_LATEST: Final = -1


class TopicLives:
    """Which partitions are gone, or were made anew, since they were last looked at. Pure."""

    def __init__(self) -> None:
        self._ends: dict[TopicPartition, int] = {}
        self._gone: dict[TopicPartition, int] = {}
        """Partitions that are not there → looks for which they are still remembered."""

    def look(self, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """The partitions whose committed offsets mean nothing, by the `ends` of all that are there now."""
        anew = {tp for tp, end in ends.items() if end < self._ends.get(tp, 0)}
        self._gone |= dict.fromkeys(self._ends.keys() - ends.keys(), LOOKS)
        self._gone = {tp: left - 1 for tp, left in self._gone.items() if left > 0 and tp not in ends}
        self._ends = dict(ends)
        return sorted({*anew, *self._gone})


async def ends(admin: AIOKafkaAdminClient) -> dict[TopicPartition, int]:
    """One past the last record of every partition of the one broker."""
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
    """Have every group's committed offsets of these partitions deleted."""
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
