"""Guards over aiokafka 0.14.0 for transactions: a request is sent once, and each transaction has an epoch of its own.

3. No request of a transaction is repeated on the same producer epoch once it may have been sent. Unguarded, the first
   one, delayed on its way, takes effect in the *next* transaction of that epoch: an EndTxn ends it half written, a
   TxnOffsetCommit puts an older offset into it. The caller makes a new producer and reads what was committed.
4. A topic that may not be written to ends the transaction at once.
7. Why a producer failed reaches who waits for it, and nobody else. Unguarded, asyncio prints it once more, with a stack
   trace, for futures of aiokafka's own that nobody waits for.

`renew_epoch` is what the client lacks: a new epoch for every transaction (KIP-360), so that whatever the network still
holds of the last one, an EndTxn above all, is refused when it arrives, however it came to be late or doubled. `discard`
lets go of a producer that does not stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiokafka import errors
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import ConnectionGroup, CoordinationType
from aiokafka.producer.transaction_manager import PidAndEpoch, TransactionState
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields


class OutcomeUnknown(errors.ProducerFenced):  # type: ignore[misc]
    """A request of a transaction may or may not have been executed: only a new producer can tell.

    A kind of ProducerFenced, for these end the client's sender and reach whoever waits as they are.
    """


class TopicsRefused(errors.ProducerFenced):  # type: ignore[misc]
    """These topics may not be written to. Unguarded, whoever waits for a record to one of them waits for ever."""

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(self.args[0])


async def do_once(self: Any, node_id: int) -> bool:
    """For `do` of the handlers that send a transaction's requests: guards 3 and 4. True: the request is done."""
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


def failure(self: Any, exception: BaseException) -> None:
    """For `MessageBatch.failure`: guard 7."""
    _plain_failure(self, exception)
    _heard(self._drain_waiter)


def _heard(waiter: asyncio.Future[Any] | None) -> None:
    """Its exception is known; asyncio need not print it."""
    if waiter is not None and waiter.done() and not waiter.cancelled():
        waiter.exception()


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
            async with asyncio.timeout(2):
                await producer.stop()
            return
        if producer._sender.sender_task is not None:
            producer._sender.sender_task.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await producer.client.close()
    finally:
        if producer._txn_manager is not None:
            _heard(producer._txn_manager._transaction_waiter)
