"""The guards over aiokafka 0.14.0 that exactly-once delivery needs; each has its test in test_aiokafka_guards.py.

1. OffsetFetch: an error of the whole answer is raised, and so is an answer that leaves out a partition asked for.
   Unguarded both read as "nothing was ever committed", and the partition starts over from its first record.
2. `fetch_context` counts down on cancellation too. Unguarded, one cancelled `getmany` makes the consumer look busy
   for ever, so that it is never seen to hang.
3. No request of a transaction is repeated on the same producer epoch once it may have been sent. Unguarded, the first
   one, delayed on its way, takes effect in the *next* transaction of that epoch: an EndTxn ends it half written, a
   TxnOffsetCommit puts an older offset into it. The caller makes a new producer and reads what was committed.
4. A topic that may not be written to ends the transaction at once.
5. When a broker last answered a heartbeat and a fetch is noted, for aiokafka does not say when it has lost touch.
6. A fetch that is cancelled while it waits after an error just ends. Unguarded its CancelledError reaches who cancelled
   it: a rebalance while a broker is away ends the fetching for ever, and `stop` raises with connections left open.
7. Why a producer failed reaches who waits for it, and nobody else. Unguarded, asyncio prints it once more, with a stack
   trace, for futures of aiokafka's own that nobody waits for.
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

`renew_epoch` is what the client lacks: a new epoch for every transaction (KIP-360), so that whatever the network still
holds of the last one, an EndTxn above all, is refused when it arrives, however it came to be late or doubled.

What is private in aiokafka and used all the same stands here too: a committed offset together with its metadata, how
many members a group has, asking the group for a new assignment, and letting go of a producer that does not stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import aiokafka
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    ConnectionGroup,
    CoordinationType,
    EndTxnHandler,
    TxnOffsetCommitHandler,
)
from aiokafka.producer.transaction_manager import PidAndEpoch, TransactionState
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.guards import record_guards, stand_in_guards

VERSION: Final = "0.14.0"

_CONFIRM_S: Final = 2.0

_plain_send_req = GroupCoordinator._send_req


class AnswerLeftOut(errors.KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """An answer does not speak of everything that was asked."""

    retriable = True


class CoordinatorInDoubt(errors.KafkaError):  # type: ignore[misc]
    """Who answered may not be the group's coordinator any more."""

    retriable = True


async def _send_req(self: Any, request: Any) -> Any:
    node = self.coordinator_id
    response = await _plain_send_req(self, request)
    if isinstance(request, HeartbeatRequest | SyncGroupRequest):
        if response.error_code == errors.IllegalGenerationError.errno or _is_empty_assignment(response):
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


async def _maybe_refresh_commit_offsets(self: Any, assignment: Any) -> bool:
    try:
        return bool(await _plain_refresh(self, assignment))
    except errors.KafkaError:
        return False


@contextlib.contextmanager
def _fetch_context(self: Any) -> Iterator[None]:
    self._fetch_count += 1
    try:
        yield
    finally:
        self._fetch_count -= 1
        if self._fetch_count == 0:
            self._last_fetch_ended = time.monotonic()


class OutcomeUnknown(errors.ProducerFenced):  # type: ignore[misc]
    """A request of a transaction may or may not have been executed: only a new producer can tell.

    A kind of ProducerFenced, for these end the client's sender and reach whoever waits as they are.
    """


class TopicsRefused(errors.ProducerFenced):  # type: ignore[misc]
    """These topics may not be written to. Unguarded, whoever waits for a record to one of them waits for ever."""

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(self.args[0])


async def _do_once(self: Any, node_id: int) -> bool:
    try:
        response = await self._sender.client.send(node_id, self.create_request(), group=self.group)
    except errors.NodeNotReadyError:
        # It never left this process, so trying again is safe.
        await asyncio.sleep(self.handle_error())
        return False
    except errors.KafkaError as error:
        raise OutcomeUnknown(f"{type(self).__name__}: {error!r}") from error
    backoff_s = self.handle_response(response)
    if self._sender._txn_manager.state is TransactionState.ABORTABLE_ERROR:
        refused = self._sender._txn_manager.wait_for_transaction_end().exception()
        if isinstance(refused, errors.TopicAuthorizationFailedError):
            raise TopicsRefused(*refused.args)
    if backoff_s is None:
        return True
    await asyncio.sleep(backoff_s)
    return False


_plain_failure = MessageBatch.failure


def _failure(self: Any, exception: BaseException) -> None:
    _plain_failure(self, exception)
    _heard(self._drain_waiter)


def _heard(waiter: asyncio.Future[Any] | None) -> None:
    """Its exception is known; asyncio need not print it."""
    if waiter is not None and waiter.done() and not waiter.cancelled():
        waiter.exception()


_plain_send = AIOKafkaClient.send


async def _send(self: Any, node_id: int, request: Any, **named: Any) -> Any:
    response = await _plain_send(self, node_id, request, **named)
    self.__dict__.setdefault("_answered_at", {})[type(request)] = time.monotonic()
    return response


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
            f"aiokafka {aiokafka.__version__} is installed, and delivery/guards/aiokafka_guards.py mends {VERSION}: "
            f"install aiokafka=={VERSION}, or check each guard against the new version"
        )
    GroupCoordinator._send_req = _send_req
    GroupCoordinator._maybe_refresh_commit_offsets = _maybe_refresh_commit_offsets
    SubscriptionState.fetch_context = _fetch_context
    for handler in (AddPartitionsToTxnHandler, AddOffsetsToTxnHandler, TxnOffsetCommitHandler, EndTxnHandler):
        handler.do = _do_once
    MessageBatch.failure = _failure
    AIOKafkaClient.send = _send
    record_guards.install()
    stand_in_guards.install()
    Fetcher._proc_fetch_request = _proc_fetch_request


async def committed(consumer: Any, partition: TopicPartition) -> OffsetAndMetadata | None:
    """The group's committed offset *with metadata*, or None if there never was one. Raises KafkaError."""
    offsets = await consumer._coordinator.fetch_committed_offsets([partition])
    return offsets.get(partition)


async def all_committed(consumer: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
    """As `committed`, of many; those without a commit are left out. The consumer need not be in the group."""
    offsets: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(partitions)
    return {tp: found for tp, found in offsets.items() if found.offset >= 0}


async def know_topics(consumer: Any, topics: Collection[str]) -> None:
    """Ask for all these topics at once. The client itself asks for one after the other, a tenth of a second each."""
    await consumer._client.set_topics({*consumer._client._topics, *topics})


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


def heartbeat_answered_at(consumer: Any) -> float:
    """When (`time.monotonic`) the group last acknowledged this member; −∞: never."""
    return max(_answered_at(consumer, kind) for kind in (HeartbeatRequest, SyncGroupRequest))


def fetch_answered_at(consumer: Any) -> float:
    """When (`time.monotonic`) a broker last answered a fetch, with records or without; −∞: never."""
    return _answered_at(consumer, FetchRequest)


def request_rejoin(consumer: Any) -> None:
    """Have the group assign its partitions anew, which tells whether a partition is still ours."""
    consumer._coordinator.request_rejoin()


async def renew_epoch(producer: Any) -> None:
    """Between two transactions: a new epoch, if ours is still the last; brokers without KIP-360 keep the old one.

    Raises ProducerFenced where another has initialised the transactional id since, and KafkaError.
    """
    sender, manager = producer._sender, producer._txn_manager
    request = _InitProducerId(manager)
    while True:
        node = await sender._find_coordinator(CoordinationType.TRANSACTION, manager.transactional_id)
        try:
            response = await producer.client.send(node, request, group=ConnectionGroup.COORDINATION)
        except (NotImplementedError, errors.IncompatibleBrokerVersion):
            return
        kind = errors.for_code(response.error_code)
        if kind is errors.NoError:
            # Sequence numbers start anew with each epoch.
            manager._pid_and_epoch = PidAndEpoch(response.producer_id, response.producer_epoch)
            manager._sequence_numbers.clear()
            return
        if response.error_code in _FENCED:
            raise errors.ProducerFenced
        if kind in (errors.CoordinatorNotAvailableError, errors.NotCoordinatorError):
            sender._coordinator_dead(CoordinationType.TRANSACTION)
        elif kind not in (errors.CoordinatorLoadInProgressError, errors.ConcurrentTransactions):
            raise kind()
        await asyncio.sleep(sender._retry_backoff)


_FENCED: Final = frozenset({errors.InvalidProducerEpoch.errno, 90})
"""The second is PRODUCER_FENCED, which aiokafka does not know."""


class _InitProducerIdResponse(Response):  # type: ignore[misc]
    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _InitProducerIdRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 22
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _InitProducerIdResponse
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _InitProducerId(Request[_InitProducerIdRequest]):  # type: ignore[misc]
    """With the epoch that we believe to be the last: a broker refuses it from anybody else."""

    API_KEY = 22

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def build(self, struct: type[Any]) -> Any:
        manager = self._manager
        return struct(
            manager.transactional_id, manager.transaction_timeout_ms, manager.producer_id, manager.producer_epoch, {}
        )


async def discard(producer: Any) -> None:
    """Let go of a producer within seconds, whatever it still waits for; `stop` alone may wait for ever."""
    try:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(producer.stop(), 2)
            return
        if producer._sender.sender_task is not None:
            producer._sender.sender_task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(producer.client.close(), 2)
    finally:
        if producer._txn_manager is not None:
            _heard(producer._txn_manager._transaction_waiter)


def _answered_at(consumer: Any, kind: type) -> float:
    answered: dict[type, float] = getattr(consumer._client, "_answered_at", {})
    return answered.get(kind, float("-inf"))
