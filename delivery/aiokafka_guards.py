"""The guards over aiokafka 0.14.0 that exactly-once delivery needs; tests/delivery/test_aiokafka_guards.py holds them.

1. OffsetFetch: an error of the whole answer is raised. Unguarded it reads as "nothing was ever committed", and the
   partition starts over from its first record.
2. `fetch_context` counts down on cancellation too. Unguarded, one cancelled `getmany` makes the consumer look busy
   for ever, so that it is never seen to hang.
3. EndTxn is not repeated on the same producer epoch once it may have been sent. Unguarded, a delayed first EndTxn can
   end the *next* transaction of that epoch. The caller makes a new producer and reads what was committed.
4. A fetch that is cancelled while it waits after an error just ends. Unguarded its CancelledError reaches who cancelled
   it: a rebalance while a broker is away ends the fetching for ever, and `stop` raises with connections left open.

Reading a committed offset together with its metadata is private in aiokafka as well, so it stands here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

import aiokafka
from aiokafka import errors
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.sender import CoordinationType, EndTxnHandler
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery import record_guards, stand_in_guards

VERSION: Final = "0.14.0"

_plain_send_req = GroupCoordinator._send_req


async def _send_req(self: Any, request: Any) -> Any:
    response = await _plain_send_req(self, request)
    code = getattr(response, "error_code", 0) if isinstance(request, OffsetFetchRequest) else 0
    if code:
        kind = errors.for_code(code)
        if kind in (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError):
            self.coordinator_dead()
        raise kind()
    return response


@contextlib.contextmanager
def _fetch_context(self: Any) -> Iterator[None]:
    self._fetch_count += 1
    try:
        yield
    finally:
        self._fetch_count -= 1
        if self._fetch_count == 0:
            self._last_fetch_ended = time.monotonic()


async def _end_txn(self: Any, node_id: int) -> bool:
    try:
        response = await self._sender.client.send(node_id, self.create_request(), group=self.group)
    except errors.NodeNotReadyError:
        # It never left this process, so trying again is safe.
        self._sender._coordinator_dead(CoordinationType.TRANSACTION)
        await asyncio.sleep(self._default_backoff)
        return False
    except errors.KafkaError as error:
        raise errors.ProducerFenced("the outcome of EndTxn is unknown: a new producer must read it") from error
    backoff_s = self.handle_response(response)
    if backoff_s is None:
        return True
    await asyncio.sleep(backoff_s)
    return False


async def _proc_fetch_request(self: Any, assignment: Any, node_id: int, request: Any) -> bool:
    try:
        return bool(await stand_in_guards._proc_fetch_request(self, assignment, node_id, request))
    except asyncio.CancelledError:
        # As the plain one does where it is cancelled while it waits for the answer.
        return False


def install() -> None:
    """Put the guards in place; harmless when repeated. Raises RuntimeError on any other version of aiokafka."""
    if aiokafka.__version__ != VERSION:
        raise RuntimeError(
            f"aiokafka {aiokafka.__version__} is installed, and delivery/aiokafka_guards.py mends {VERSION}: "
            f"install aiokafka=={VERSION}, or check each guard against the new version"
        )
    GroupCoordinator._send_req = _send_req
    SubscriptionState.fetch_context = _fetch_context
    EndTxnHandler.do = _end_txn
    record_guards.install()
    stand_in_guards.install()
    Fetcher._proc_fetch_request = _proc_fetch_request


async def committed(consumer: Any, partition: TopicPartition) -> OffsetAndMetadata | None:
    """The group's committed offset *with metadata*, or None if there never was one. Raises KafkaError."""
    offsets = await consumer._coordinator.fetch_committed_offsets([partition])
    return offsets.get(partition)
