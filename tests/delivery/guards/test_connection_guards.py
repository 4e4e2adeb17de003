"""Contract tests of the guards over connecting; what brokers say to it is in tests/secured/test_connection.py."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.admin import SaslAuthenticateRequest_v0
from aiokafka.protocol.metadata import MetadataRequest_v0
from aiokafka.structs import BrokerMetadata
from structlog.testing import capture_logs

from guideway.delivery.connection.trouble import Trouble
from guideway.delivery.guards import aiokafka_guards, connection_guards

aiokafka_guards.install()
LOGIN: dict[str, Any] = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "SCRAM-SHA-256",
    "sasl_plain_username": "shop",
    "sasl_plain_password": "hush",
}


def answering(error: Exception) -> Callable[[AIOKafkaConnection], Awaitable[None]]:
    async def connect(_self: AIOKafkaConnection) -> None:
        tries.append(1)
        raise error

    tries: list[int] = []
    connect.tries = tries  # type: ignore[attr-defined]
    return connect


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    connection_guards._said.clear()


async def test_a_broker_that_refuses_is_not_asked_at_once_again_and_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine takes longer for the fifty than the first pause.
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    refuses = answering(errors.SaslAuthenticationFailed("no"))
    monkeypatch.setattr(AIOKafkaConnection, "connect", refuses)
    client = AIOKafkaClient(bootstrap_servers="a:1", **LOGIN)
    client.cluster._brokers = {7: BrokerMetadata(7, "a", 1, None)}
    with capture_logs() as lines:
        with pytest.raises(Trouble, match="they do not know the user 'shop', or the password is wrong"):
            await client.bootstrap()
        for _ in range(50):
            assert await client._get_conn(7) is None
        with pytest.raises(errors.NodeNotReadyError) as caught:
            await client.send(7, None)
    assert isinstance(caught.value.__cause__, Trouble)
    assert len(refuses.tries) == 1  # type: ignore[attr-defined]
    assert [line["event"] for line in lines] == ["a broker does not let us in"]
    assert "hush" not in str(lines)
    now += 0.07
    assert await client._get_conn(7) is None
    assert len(refuses.tries) == 2  # type: ignore[attr-defined]


async def test_who_is_let_in_again_has_been_refused_until_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog gives it as long as ever from then on: the last heartbeat may be hours old."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(AIOKafkaConnection, "connect", answering(errors.SaslAuthenticationFailed("no")))
    client = AIOKafkaClient(bootstrap_servers="a:1", **LOGIN)
    client.cluster._brokers = {7: BrokerMetadata(7, "a", 1, None), 8: BrokerMetadata(8, "b", 1, None)}
    assert connection_guards.refused_at(client) == float("-inf")
    assert await client._get_conn(7) is None
    now += 20
    assert connection_guards.refused_at(client) == now

    async def let_in(_self: AIOKafkaConnection) -> None: ...

    monkeypatch.setattr(AIOKafkaConnection, "connect", let_in)
    assert await client._get_conn(7) is not None
    let_in_at, now = now, now + 3
    assert connection_guards.refused_at(client) == let_in_at


async def test_a_producer_that_is_refused_excuses_all_partitions_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer may keep a connection for which nobody asks it to log in again."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(AIOKafkaConnection, "connect", answering(errors.SaslAuthenticationFailed("no")))
    consumer, producer = (AIOKafkaClient(bootstrap_servers="a:1", **LOGIN) for _ in range(2))
    producer.cluster._brokers = {7: BrokerMetadata(7, "a", 1, None)}
    assert await producer._get_conn(7) is None
    now += 29
    assert connection_guards.refused_at(consumer) == float("-inf")
    assert connection_guards.anybody_refused_at() == now
    now += 2
    assert connection_guards.anybody_refused_at() == 1000.0


async def test_a_broker_that_is_gone_does_not_undo_that_others_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(AIOKafkaConnection, "connect", answering(errors.SaslAuthenticationFailed("no")))
    client = AIOKafkaClient(bootstrap_servers="a:1", **LOGIN)
    client.cluster._brokers = {7: BrokerMetadata(7, "a", 1, None), 8: BrokerMetadata(8, "b", 1, None)}
    assert await client._get_conn(7) is None
    now += 20
    monkeypatch.setattr(AIOKafkaConnection, "connect", answering(ConnectionRefusedError()))
    assert await client._get_conn(8) is None
    assert connection_guards.refused_at(client) == 1000.0


@pytest.mark.parametrize("error", [ValueError("Server sent wrong signature!"), KeyError("v"), AssertionError()])
async def test_an_answer_that_is_no_kafka_error_fails_the_connection_only(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(AIOKafkaConnection, "connect", answering(error))
    client = AIOKafkaClient(bootstrap_servers="a:1", **LOGIN)
    with pytest.raises(Trouble, match="do not prove that they know the password"):
        await client.bootstrap()
    plain = AIOKafkaClient(bootstrap_servers="a:1")
    with pytest.raises(errors.KafkaConnectionError, match="Unable to bootstrap"):
        await plain.bootstrap()


async def test_where_nobody_listens_is_no_matter_of_the_login() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}", **LOGIN)
    with pytest.raises(errors.KafkaConnectionError) as caught:
        await client.bootstrap()
    assert not isinstance(caught.value, Trouble)


def test_what_logs_in_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("aiokafka.conn")
    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        log.debug("Request to %s:%d %d: %s", "a", 1, 7, SaslAuthenticateRequest_v0(b"\0shop\0hush"))
        log.debug("Request to %s:%d %d: %s", "a", 1, 8, MetadataRequest_v0([]))
    assert "hush" not in caplog.text
    assert "Metadata" in caplog.text
