"""What a fault test asks a cluster: who coordinates, who leads, what is out of sync, which transactions are open.

Give them `KafkaCluster.internal` where a proxy stands before the brokers: they are to see the truth.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import Refusal

ATTEMPT_S: Final = 3.0
OPEN_STATES: Final = ("Ongoing", "PrepareCommit", "PrepareAbort")
"""States in which a transaction still holds readers of committed records back."""

Answer = TypeVar("Answer")


async def group_coordinator(cluster: Cluster, group: str) -> int:
    """The broker that coordinates a consumer group. Raises Refusal(BROKER_UNREACHABLE) if none does within 60 s."""
    return await _ask(cluster, lambda admin: admin.find_coordinator(group, 0))


async def transaction_coordinator(cluster: Cluster, transactional_id: str) -> int:
    """The broker that coordinates the transactions of an id. Raises as `group_coordinator`."""
    return await _ask(cluster, lambda admin: admin.find_coordinator(transactional_id, 1))


async def leaders(cluster: Cluster, topic: str) -> dict[int, int]:
    """The leader of each of a topic's partitions, -1 where there is none. Raises as `group_coordinator`."""

    async def question(admin: AIOKafkaAdminClient) -> dict[int, int]:
        (found,) = await admin.describe_topics([topic])
        if found["error_code"]:
            raise for_code(found["error_code"])(topic)
        return {one["partition"]: one["leader"] for one in found["partitions"]}

    return await _ask(cluster, question)


async def await_in_sync(cluster: Cluster, timeout_s: float = 60.0) -> None:
    """Return once every replica of every partition is in sync, as between two steps of a rolling restart.

    Raises TimeoutError after `timeout_s`.
    """

    async def lagging(admin: AIOKafkaAdminClient) -> bool:
        topics = await admin.describe_topics()
        return any(len(one["isr"]) < len(one["replicas"]) for topic in topics for one in topic["partitions"])

    async with asyncio.timeout(timeout_s):
        while await _ask(cluster, lagging):
            await asyncio.sleep(0.1)


async def open_transactions(cluster: Cluster) -> dict[str, str]:
    """The transactional ids with a transaction that has not ended, each with its state, as all brokers know them.

    One whose commit was just answered is PrepareCommit until its markers are written: ask again before complaining.
    Raises Refusal(BROKER_UNREACHABLE) if not every listed broker answers within 60 s.
    """

    async def question(admin: AIOKafkaAdminClient) -> dict[str, str]:
        found: dict[str, str] = {}
        # Each broker knows the ids that it coordinates.
        for broker in (await admin.describe_cluster())["brokers"]:
            answer = await admin._send_request_to_node(broker["node_id"], _ListTransactions())
            if answer.error_code:
                raise for_code(answer.error_code)(f"broker {broker['node_id']}")
            found |= {transactional_id: state for transactional_id, _, state, _ in answer.transactions}
        return found

    return await _ask(cluster, question)


async def _ask(
    cluster: Cluster, question: Callable[[AIOKafkaAdminClient], Awaitable[Answer]], timeout_s: float = 60.0
) -> Answer:
    """Put the question until it is answered, each time by a new client: an old one may cling to a dead broker."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            async with administrator(cluster, timeout_s=ATTEMPT_S) as admin:
                return await question(admin)
        except (Refusal, KafkaError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


class _ListTransactionsResponse(Response):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(CompactString("utf-8"))),
        (
            "transactions",
            CompactArray(
                ("transactional_id", CompactString("utf-8")),
                ("producer_id", Int64),
                ("state", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _ListTransactionsRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListTransactionsResponse
    SCHEMA = Schema(
        ("states", CompactArray(CompactString("utf-8"))),
        ("producer_ids", CompactArray(Int64)),
        ("tags", TaggedFields),
    )


class _ListTransactions(Request[_ListTransactionsRequest]):  # type: ignore[misc]
    """What aiokafka does not ask itself; Kafka's ListTransactions, for the open states only."""

    API_KEY = 66

    def build(self, struct: type[Any]) -> Any:
        return struct(list(OPEN_STATES), [], {})
