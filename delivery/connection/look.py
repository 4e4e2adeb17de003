"""Looks at the brokers' addresses over a socket of its own, to tell why clients cannot work there. It does not log in.

It connects, by TLS where the cluster is set up so, asks which requests are known, and how one logs in.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from guideway.delivery.connection import trouble
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.security import Security
from guideway.delivery.connection.trouble import Cause

CONNECT_S: Final = 3.0
ANSWER_S: Final = 5.0
_API_VERSIONS, _HANDSHAKE = 18, 17
_UNSUPPORTED_MECHANISM: Final = 33
_ILLEGAL_SASL_STATE: Final = 34
_TLS_ALERT: Final = b"\x15\x03"
_MAX_BYTES: Final = 100_000


class Away(NamedTuple):
    """Nobody answers there as a Kafka broker does."""

    why: str


class _NoAnswerError(Exception):
    """What was sent back is none of Kafka's answers."""


def wrong_with(cluster: Cluster, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> Away | Cause | None:
    """Why none of the brokers can be worked with, told of the first that answers; None if one can be. Blocks."""
    found: list[str] = []
    told: Cause | None = None
    addresses = cluster.brokers.split(",")
    for address in addresses:
        host, _, port = address.rpartition(":")
        why = _wrong_with(host.strip("[]"), int(port), cluster.security, connect_s, answer_s)
        match why:
            case None:
                return None
            case Cause():
                told = told or why
            case Away(text):
                found.append(text if len(addresses) == 1 else f"{address}: {text}")
    return told or Away("; ".join(found))


def _wrong_with(host: str, port: int, security: Security, connect_s: float, answer_s: float) -> Away | Cause | None:
    try:
        with _connected(host, port, security, connect_s, answer_s) as connection:
            return _of_listener(connection, security)
    except OSError as error:
        return trouble.cause_of(error, security) or _of_network(error, security)


def _of_network(error: OSError, security: Security) -> Away | Cause:
    match error:
        case socket.gaierror():
            return Away("this machine knows no host of that name")
        case ConnectionRefusedError():
            return Away("nothing listens there")
        case TimeoutError():
            return Away("nobody takes or answers the connection")
        # A broker that goes down closes connections too: this is told of one that is there.
        case ConnectionResetError() | ssl.SSLEOFError() if security.tls is not None:
            return trouble.speaks_no_tls(security)
    return Away(f"it cannot be reached ({error.strerror or type(error).__name__})")


@contextlib.contextmanager
def _connected(host: str, port: int, security: Security, connect_s: float, answer_s: float) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), connect_s) as connection:
        connection.settimeout(answer_s)
        if security.tls is None:
            yield connection
            return
        with security.tls.context().wrap_socket(connection, server_hostname=host) as encrypted:
            yield encrypted


def _of_listener(connection: socket.socket, security: Security) -> Away | Cause | None:
    try:
        known = _api_keys(_asked(connection, _API_VERSIONS, 0, b""))
        if _HANDSHAKE not in known:
            return trouble.asks_for_no_login(security) if security.login is not None else None
        mine = security.login.mechanism.encode() if security.login is not None else b""
        answer = _asked(connection, _HANDSHAKE, 1, struct.pack(">h", len(mine)) + mine)
        code, mechanisms = _handshake(answer)
    except _NoAnswerError as error:
        return _of_other(error.args[0], security)
    except struct.error:
        return Away("what answers there is no Kafka broker")
    if code == _ILLEGAL_SASL_STATE:
        return trouble.asks_for_no_login(security) if security.login is not None else None
    named = ", ".join(mechanisms)
    if security.login is None:
        # noida-db takes any mechanism, and asks for none.
        return trouble.wants_login(named, security) if code == _UNSUPPORTED_MECHANISM else None
    return None if security.login.mechanism in mechanisms else trouble.no_such_mechanism(named, security)


def _of_other(answer: bytes, security: Security) -> Away | Cause:
    if answer.startswith(_TLS_ALERT) and security.tls is None:
        return trouble.wants_tls(security)
    if len(answer) < 8:
        return Away("it closes the connection, as a listener with TLS does, or what is no Kafka broker")
    return Away("what answers there is no Kafka broker")


def _asked(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """The answer without its header. Raises _NoAnswerError with what came instead."""
    head = struct.pack(">hhih", key, version, 1, -1)
    connection.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    begin = _received(connection, 8)
    if len(begin) < 8:
        raise _NoAnswerError(begin)
    length, correlation = struct.unpack(">ii", begin)
    if correlation != 1 or not 4 <= length <= _MAX_BYTES:
        raise _NoAnswerError(begin)
    return _received(connection, length - 4)


def _received(connection: socket.socket, count: int) -> bytes:
    """So many bytes; fewer if the connection is closed earlier."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while len(answer) < count and (more := connection.recv(count - len(answer))):
            answer += more
    return answer


def _api_keys(answer: bytes) -> set[int]:
    _error, count = struct.unpack_from(">hi", answer)
    return {struct.unpack_from(">hhh", answer, 6 + 6 * at)[0] for at in range(min(count, 1000))}


def _handshake(answer: bytes) -> tuple[int, list[str]]:
    code, count = struct.unpack_from(">hi", answer)
    at, found = 6, []
    for _ in range(min(count, 100)):
        (length,) = struct.unpack_from(">h", answer, at)
        found.append(answer[at + 2 : at + 2 + length].decode("utf-8", "replace"))
        at += 2 + length
    return code, found


def peer_certificate_until(cluster: Cluster, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> str | None:
    """When the certificate of the first broker that answers ends, as OpenSSL writes it; None without TLS. Blocks."""
    for address in cluster.brokers.split(","):
        host, _, port = address.rpartition(":")
        with (
            contextlib.suppress(OSError),
            _connected(host.strip("[]"), int(port), cluster.security, connect_s, answer_s) as connection,
        ):
            told = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
            return str(told["notAfter"]) if told and "notAfter" in told else None
    return None
