"""Guards over aiokafka 0.14.0 for reading: a consumer goes on fetching, and it can be seen whether brokers answer.

2. `fetch_context` counts down on cancellation too. Unguarded, one cancelled `getmany` makes the consumer look busy
   for ever, so that it is never seen to hang.
5. When a broker last answered a heartbeat and a fetch is noted, for aiokafka does not say when it has lost touch.
6. A fetch that is cancelled while it waits after an error just ends. Unguarded its CancelledError reaches who cancelled
   it: a rebalance while a broker is away ends the fetching for ever, and `stop` raises with connections left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator
from typing import Any, Final

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from aiokafka.structs import TopicPartition

from guideway.delivery.connection.trouble import Trouble
from guideway.delivery.guards import connection_guards, stand_in_guards

_BEYOND: Final = 2**62
"""An offset that no partition reaches."""
_REFUSED: Final = errors.TopicAuthorizationFailedError.errno


@contextlib.contextmanager
def fetch_context(self: Any) -> Iterator[None]:
    """For `SubscriptionState.fetch_context`: guard 2."""
    self._fetch_count += 1
    try:
        yield
    finally:
        self._fetch_count -= 1
        if self._fetch_count == 0:
            self._last_fetch_ended = time.monotonic()


_plain_send = AIOKafkaClient.send


async def send(self: Any, node_id: int, request: Any, **named: Any) -> Any:
    """For `AIOKafkaClient.send`: guard 5, and the cause where there is no connection (guard 12)."""
    try:
        response = await _plain_send(self, node_id, request, **named)
    except errors.NodeNotReadyError as error:
        if (cause := connection_guards.cause_for(self)) is not None:
            raise error from Trouble(cause)
        raise
    self.__dict__.setdefault("_answered_at", {})[type(request)] = time.monotonic()
    return response


async def proc_fetch_request(self: Any, assignment: Any, node_id: int, request: Any) -> bool:
    """For `Fetcher._proc_fetch_request`: guard 6, around what `stand_in_guards.py` does."""
    try:
        return bool(await stand_in_guards._proc_fetch_request(self, assignment, node_id, request))
    except asyncio.CancelledError:
        # As the plain one does where it is cancelled while it waits for the answer.
        return False


async def know_topics(consumer: Any, topics: Collection[str]) -> None:
    """Ask for all these topics at once. The client itself asks for one after the other, a tenth of a second each."""
    await consumer._client.set_topics({*consumer._client._topics, *topics})


async def not_readable(consumer: Any, partitions: Collection[TopicPartition]) -> set[str]:
    """The topics of these partitions that may be described and not be read.

    The consumer itself learns it by a fetch that fails for all that it reads. Leaders are asked here for a record far
    beyond the end, which carries nothing. What cannot be learnt, as where a broker is away, is not among them.
    """
    client = consumer._client
    by_node: dict[int, dict[str, list[tuple[int, int, int]]]] = {}
    for tp in partitions:
        node = client.cluster.leader_for_partition(tp)
        if node is not None and node >= 0:
            by_node.setdefault(node, {}).setdefault(tp.topic, []).append((tp.partition, _BEYOND, 1))
    found: set[str] = set()
    for node, topics in by_node.items():
        with contextlib.suppress(errors.KafkaError):
            response = await client.send(node, FetchRequest(0, 0, 1, 1, list(topics.items())))
            found |= {topic for topic, told in response.topics if _REFUSED in {code for _, code, *_ in told}}
    return found


def note_heartbeat(coordinator: Any) -> None:
    """The group has answered its member, though not a heartbeat."""
    coordinator._client.__dict__.setdefault("_answered_at", {})[HeartbeatRequest] = time.monotonic()


def heartbeat_answered_at(consumer: Any) -> float:
    """When (`time.monotonic`) the group last acknowledged this member; −∞: never."""
    return max(_answered_at(consumer, kind) for kind in (HeartbeatRequest, SyncGroupRequest))


def fetch_answered_at(consumer: Any) -> float:
    """When (`time.monotonic`) a broker last answered a fetch, with records or without; −∞: never."""
    return _answered_at(consumer, FetchRequest)


def _answered_at(consumer: Any, kind: type) -> float:
    answered: dict[type, float] = getattr(consumer._client, "_answered_at", {})
    return answered.get(kind, float("-inf"))
