"""Each guard against the client code that it mends, without a broker: an aiokafka that changes fails here first."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka import errors
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    TxnOffsetCommitHandler,
)
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.protocol.coordination import FindCoordinatorRequest, FindCoordinatorResponse_v1
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest, HeartbeatResponse_v1, SyncGroupResponse_v3
from aiokafka.protocol.transaction import AddPartitionsToTxnResponse_v0
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer
from guideway.delivery.guards import aiokafka_guards


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka, "__version__", "0.15.0")
    with pytest.raises(RuntimeError, match=r"aiokafka==0\.14\.0"):
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
    with pytest.raises(aiokafka_guards.AnswerLeftOut, match="'t', 1"):
        await _coordinator(answer)._do_fetch_commit_offsets([TopicPartition("t", 0), TopicPartition("t", 1)])


@pytest.mark.parametrize("names", [{}, {2: 1}, {2: 1, 3: 0}])
async def test_a_committed_offset_counts_where_other_brokers_name_who_told_it(
    names: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiokafka_guards, "_CONFIRM_S", 0.05)
    coordinator = _coordinator(OffsetFetchResponse_v3(0, [("t", [(0, 7, "", 0)])], 0))
    coordinator._client.names = names
    found = await coordinator._do_fetch_commit_offsets([TopicPartition("t", 0)])
    assert found == {TopicPartition("t", 0): OffsetAndMetadata(7, "")}


@pytest.mark.parametrize("names", [{2: 2}, {2: 2, 3: 1}, {2: 0}, {2: -1, 3: 0}])
async def test_it_does_not_where_they_name_another_or_none_answers(
    names: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that was paused, and replaced meanwhile, wakes and tells what it knew."""
    monkeypatch.setattr(aiokafka_guards, "_CONFIRM_S", 0.05)
    coordinator = _coordinator(OffsetFetchResponse_v3(0, [("t", [(0, 7, "", 0)])], 0))
    coordinator._client.names = names
    with pytest.raises(aiokafka_guards.CoordinatorInDoubt) as caught:
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


async def test_fetch_context_counts_down_on_cancellation() -> None:
    state = SubscriptionState()
    with pytest.raises(asyncio.CancelledError), state.fetch_context():
        raise asyncio.CancelledError
    assert state._fetch_count == 0


async def test_a_fetch_cancelled_while_it_waits_after_an_error_just_ends() -> None:
    asked = asyncio.Event()

    class FakeClient:
        async def send(self, node: int, request: Any) -> Any:
            asked.set()
            raise errors.KafkaConnectionError("gone")

    class FakeRequest:
        topics: tuple[()] = ()

    fetcher = Fetcher.__new__(Fetcher)
    fetcher._client, fetcher._retry_backoff = FakeClient(), 60
    fetching = asyncio.create_task(fetcher._proc_fetch_request(None, 0, FakeRequest()))
    await asked.wait()
    fetching.cancel()
    assert await fetching is False


class _Sender:
    """What the handlers of a transaction's requests need of a sender."""

    _retry_backoff = 0.0

    def __init__(self, answer: Any) -> None:
        self.client = self
        self._txn_manager = TransactionManager("t", 30_000)
        self._txn_manager.set_pid_and_epoch(1, 0)
        self._txn_manager.begin_transaction()
        self._answer = answer
        self.sent = 0
        self.lookups = 0

    async def send(self, node: int, request: Any, group: Any = None) -> Any:
        self.sent += 1
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def _coordinator_dead(self, kind: Any) -> None:
        self.lookups += 1


TP = TopicPartition("t", 0)
HANDLERS: dict[str, Callable[[Any], Any]] = {
    "AddPartitionsToTxn": lambda sender: AddPartitionsToTxnHandler(sender, {TP}),
    "AddOffsetsToTxn": lambda sender: AddOffsetsToTxnHandler(sender, "g"),
    "TxnOffsetCommit": lambda sender: TxnOffsetCommitHandler(sender, {TP: OffsetAndMetadata(1, "")}, "g"),
    "EndTxn": lambda sender: EndTxnHandler(sender, 1),
}


@pytest.mark.parametrize("error", [errors.KafkaConnectionError("gone"), errors.RequestTimedOutError()])
@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_request_of_a_transaction_of_unknown_outcome_ends_the_producer(
    handler: str, error: errors.KafkaError
) -> None:
    sender = _Sender(error)
    with pytest.raises(aiokafka_guards.OutcomeUnknown):
        await HANDLERS[handler](sender).do(0)
    assert sender.sent == 1


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_request_that_never_left_is_tried_again(handler: str) -> None:
    sender = _Sender(errors.NodeNotReadyError("no connection"))
    assert await HANDLERS[handler](sender).do(0) is False
    assert sender.lookups == 1


async def test_a_topic_that_may_not_be_written_to_ends_the_producer_and_is_named() -> None:
    sender = _Sender(AddPartitionsToTxnResponse_v0(0, [("t", [(0, errors.TopicAuthorizationFailedError.errno)])]))
    sender._txn_manager.maybe_add_partition_to_txn(TP)
    with pytest.raises(aiokafka_guards.TopicsRefused) as caught:
        await AddPartitionsToTxnHandler(sender, {TP}).do(0)
    assert caught.value.topics == {"t"}


async def test_the_client_notes_when_it_was_last_answered() -> None:
    consumer = make_consumer("127.0.0.1:1", "test")
    assert aiokafka_guards.heartbeat_answered_at(consumer) == float("-inf")

    async def plain(*_: Any, **__: Any) -> None:
        return None

    before = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiokafka_guards, "_plain_send", plain)
        await consumer._client.send(0, HeartbeatRequest("g", 1, "m"))
        await consumer._client.send(0, FetchRequest(1, 1, 1, "read_committed", [], rack_id=""))
    assert aiokafka_guards.heartbeat_answered_at(consumer) >= before
    assert aiokafka_guards.fetch_answered_at(consumer) >= before
    await consumer.stop()


async def test_why_a_batch_failed_is_not_printed_for_those_who_do_not_wait() -> None:
    printed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
    for asked in (True, False):
        batch = MessageBatch(TopicPartition("t", 0), None, 1000, 0)
        batch.failure(errors.KafkaConnectionError("gone"))
        batch.future.exception()  # it is for those who publish whole batches
        if asked:
            with pytest.raises(errors.KafkaConnectionError):
                await batch.wait_drain()
        del batch
    gc.collect()
    assert printed == []
