"""What is said of an address at which no broker answers: the cause, not a time-out."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from guideway.delivery.connection.cluster import Cluster
from guideway.infra.local_broker import RunningBroker
from guideway.infra.probe import require_broker
from guideway.schemas.failures import FailureCode, Refusal


@contextmanager
def listening(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Somebody who answers once and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer(connection.recv(4096)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Kafka broker"),
        (b"", "closes the connection"),
        (b"\x00\x00\x00", "closes the connection"),
        (struct.pack(">ii", 100, 2), "no Kafka broker"),
    ],
)
def test_who_is_no_broker_is_told_for_what_he_is(answer: bytes, says: str) -> None:
    with listening(lambda _asked: answer) as address, pytest.raises(Refusal, match=says) as caught:
        require_broker(Cluster(address))
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
    assert address in caught.value.message
    assert "guideway broker up" in caught.value.message


def test_who_wants_tls_is_there_and_cannot_be_worked_with() -> None:
    with (
        listening(lambda _asked: bytes.fromhex("15030300020228")) as address,
        pytest.raises(Refusal, match=r"they speak TLS, .* set security.protocol to SSL") as caught,
    ):
        require_broker(Cluster(address))
    assert caught.value.code is FailureCode.LOGIN_REFUSED


def test_where_nobody_listens_that_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(Refusal, match=f"{address}: nothing listens there; nowhere.invalid:9092: this machine"):
        require_broker(Cluster(f"{address},nowhere.invalid:9092"))


def test_who_never_answers_is_waited_for_for_a_while_only() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, pytest.raises(Refusal, match="nobody takes or answers the connection"):
        require_broker(Cluster(f"127.0.0.1:{server.getsockname()[1]}"), answer_s=0.2)


def test_one_broker_that_answers_is_enough(broker: RunningBroker) -> None:
    require_broker(broker.cluster)
    require_broker(Cluster(f"127.0.0.1:1,{broker.cluster}"))
