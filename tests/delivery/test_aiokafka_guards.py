"""Each guard against the client code that it mends, without a broker: an aiokafka that changes fails here first."""

from __future__ import annotations

import asyncio
from typing import Any

import aiokafka
import pytest
from aiokafka import errors
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.sender import EndTxnHandler
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.structs import TopicPartition

from guideway.delivery import aiokafka_guards


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka, "__version__", "0.15.0")
    with pytest.raises(RuntimeError, match=r"aiokafka==0\.14\.0"):
        aiokafka_guards.install()


@pytest.mark.parametrize("code", [14, 15, 16, 30])
async def test_offset_fetch_raises_the_answers_own_error(code: int) -> None:
    class FakeClient:
        async def send(self, node: int, request: Any, group: Any = None) -> Any:
            return OffsetFetchResponse_v3(0, [], code)

    coordinator = GroupCoordinator.__new__(GroupCoordinator)
    coordinator.group_id, coordinator.coordinator_id = "g", 1
    coordinator._client = FakeClient()
    coordinator._coordinator_dead_fut = asyncio.get_running_loop().create_future()
    with pytest.raises(errors.KafkaError) as caught:
        await coordinator._do_fetch_commit_offsets([TopicPartition("t", 0)])
    assert caught.value.errno == code


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
    """What EndTxnHandler needs of a sender."""

    _retry_backoff = 0.0

    def __init__(self, answer: BaseException) -> None:
        self.client = self
        self._txn_manager = self
        self.transactional_id, self.producer_id, self.producer_epoch = "t", 1, 0
        self._answer = answer
        self.sent = 0
        self.lookups = 0

    async def send(self, node: int, request: Any, group: Any = None) -> Any:
        self.sent += 1
        raise self._answer

    def _coordinator_dead(self, kind: Any) -> None:
        self.lookups += 1


@pytest.mark.parametrize("error", [errors.KafkaConnectionError("gone"), errors.RequestTimedOutError()])
async def test_end_txn_of_unknown_outcome_ends_the_producer(error: errors.KafkaError) -> None:
    sender = _Sender(error)
    with pytest.raises(errors.ProducerFenced):
        await EndTxnHandler(sender, 1).do(0)
    assert sender.sent == 1


async def test_end_txn_that_never_left_is_tried_again() -> None:
    sender = _Sender(errors.NodeNotReadyError("no connection"))
    assert await EndTxnHandler(sender, 1).do(0) is False
    assert sender.lookups == 1
