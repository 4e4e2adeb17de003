"""Each guard for transactions against the client code that it mends: an aiokafka that changes fails here first."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    TxnOffsetCommitHandler,
)
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.transaction import AddPartitionsToTxnResponse_v0
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.guards import aiokafka_guards, transaction_guards


@pytest.fixture(autouse=True)
def _installed() -> None:
    aiokafka_guards.install()


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
    with pytest.raises(transaction_guards.OutcomeUnknown):
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
    with pytest.raises(transaction_guards.TopicsRefused) as caught:
        await AddPartitionsToTxnHandler(sender, {TP}).do(0)
    assert caught.value.topics == {"t"}


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
