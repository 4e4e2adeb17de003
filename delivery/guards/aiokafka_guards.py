"""Puts all guards over aiokafka 0.14.0 in place. What a guard mends, and how, stands in the module of its subject:

`transaction_guards.py` (guards 3, 4 and 7): a request is sent once, and each transaction has an epoch of its own.
`group_guards.py` (1, 8 to 11 and 18): what was committed, and how a member stays one.
`fetch_guards.py` (2, 5 and 6): a consumer goes on fetching, and it can be seen whether brokers answer.
`connection_guards.py` (12 to 17): why a connection fails, when it is tried again, and what is not logged of it.
`session_guards.py` (19): a login is renewed on its connection, before it ends.
`ending_guards.py` (20 and 21): a client that is stopped ends, and who is cancelled meanwhile hears of it.
`record_guards.py`: records that would stop every reader.
`stand_in_guards.py`: what noida-db, the stand-in for a broker, does wrong.

Each guard has its contract test, in the test file of its module.
"""

from __future__ import annotations

from typing import Final

import aiokafka
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    TxnOffsetCommitHandler,
)

from guideway.delivery.guards import (
    connection_guards,
    ending_guards,
    fetch_guards,
    group_guards,
    record_guards,
    session_guards,
    stand_in_guards,
    transaction_guards,
)

VERSION: Final = "0.14.0"


def install() -> None:
    """Put the guards in place; harmless when repeated. Raises RuntimeError on any other version of aiokafka."""
    if aiokafka.__version__ != VERSION:
        raise RuntimeError(
            f"aiokafka {aiokafka.__version__} is installed, and delivery/guards/aiokafka_guards.py mends {VERSION}: "
            f"install aiokafka=={VERSION}, or check each guard against the new version"
        )
    GroupCoordinator._send_req = group_guards.send_req
    GroupCoordinator._maybe_refresh_commit_offsets = group_guards.maybe_refresh_commit_offsets
    SubscriptionState.fetch_context = fetch_guards.fetch_context
    for handler in (AddPartitionsToTxnHandler, AddOffsetsToTxnHandler, TxnOffsetCommitHandler, EndTxnHandler):
        handler.do = transaction_guards.do_once
    MessageBatch.failure = transaction_guards.failure
    AIOKafkaClient.send = fetch_guards.send
    connection_guards.install()
    session_guards.install()
    ending_guards.install()
    record_guards.install()
    stand_in_guards.install()
    Fetcher._proc_fetch_request = fetch_guards.proc_fetch_request
