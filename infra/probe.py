"""Looks at a broker's address before a command waits for it, so that the user soon learns what is wrong."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from guideway.schemas.failures import FailureCode, Refusal

CONNECT_S: Final = 3.0
ANSWER_S: Final = 5.0
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""A request that every broker answers: length, key 18, version 0, correlation id 1, no client id."""
_TLS_ALERT: Final = b"\x15\x03"


def require_broker(bootstrap: str, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
    """Raises Refusal(broker_unreachable) if `wrong_with` finds something."""
    if why := wrong_with(bootstrap, connect_s=connect_s, answer_s=answer_s):
        raise Refusal(
            FailureCode.BROKER_UNREACHABLE,
            f"no answer from the brokers at {bootstrap} ({why}): start them, set KAFKA_BOOTSTRAP_SERVERS to a cluster "
            "that runs, or unset it and run `guideway broker up`",
        )


def wrong_with(bootstrap: str, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> str | None:
    """Why none of `host:port,…` is a Kafka broker that answers without TLS; None if one of them is."""
    found: list[str] = []
    for address in bootstrap.split(","):
        host, _, port = address.rpartition(":")
        why = _wrong_with(host.strip("[]"), int(port), connect_s, answer_s)
        if why is None:
            return None
        found.append(why if bootstrap == address else f"{address}: {why}")
    return "; ".join(found)


def _wrong_with(host: str, port: int, connect_s: float, answer_s: float) -> str | None:
    try:
        with socket.create_connection((host, port), connect_s) as connection:
            connection.settimeout(answer_s)
            connection.sendall(_API_VERSIONS)
            return _read(_begin_of_answer(connection))
    except socket.gaierror:
        return "this machine knows no host of that name"
    except ConnectionRefusedError:
        return "nothing listens there"
    except TimeoutError:
        return "nobody takes or answers the connection"
    except OSError as error:
        return f"it cannot be reached ({error.strerror or type(error).__name__})"


def _begin_of_answer(connection: socket.socket) -> bytes:
    """The first eight bytes; fewer if the connection is closed earlier."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while len(answer) < 8 and (more := connection.recv(8 - len(answer))):
            answer += more
    return answer


def _read(answer: bytes) -> str | None:
    if answer.startswith(_TLS_ALERT):
        return "it speaks TLS, which guideway does not speak yet; name a listener without it"
    if len(answer) < 8:
        return "it closes the connection, as a listener with TLS does, or what is no Kafka broker"
    length, correlation = struct.unpack(">ii", answer)
    return None if length >= 4 and correlation == 1 else "what answers there is no Kafka broker"
