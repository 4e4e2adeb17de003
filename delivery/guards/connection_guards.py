"""Guards over aiokafka 0.14.0 for connecting and logging in.

12. Why a connection fails is raised. Unguarded, the cause is a log line, and the error says that nobody could be
    reached.
13. A broker that did not let us connect is tried again after a pause that grows, with jitter. Unguarded, each client of
    each partition knocks ten times a second or more, and logs each time.
14. A password that stands in a file is read for each connection. Unguarded, a client keeps the one it was made with.
15. An answer to a login that is none of Kafka's errors, such as a wrong signature of the server, fails the connection.
    Unguarded it ends the client's look for metadata for good, and whoever waits for that waits for ever.
16. What is sent to log in is not logged. Unguarded, it stands in the lines of level DEBUG.
17. A token that brokers do not accept fails the login: they answer it by a text that says so (RFC 7628, section 3.2.2).
    Unguarded that counts as a login, and the next request finds the connection closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary

import aiokafka.client
import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator

from guideway.delivery.connection import backoff
from guideway.delivery.connection.backoff import Failures
from guideway.delivery.connection.secret import Revealed, Secret
from guideway.delivery.connection.security import PasswordLogin, Security
from guideway.delivery.connection.tls import RenewedContext
from guideway.delivery.connection.trouble import Cause, Trouble, cause_of
from guideway.schemas.failures import Refusal

log = structlog.get_logger(__name__)

_SAID_AGAIN_S: Final = 60.0
_LATELY_S: Final = 30.0
_CLOSED_WITHIN_S: Final = 0.5
_plain_bootstrap = AIOKafkaClient.bootstrap
_plain_step_of_token = OAuthAuthenticator.step
_plain_get_conn = AIOKafkaClient._get_conn

_client: ContextVar[Any] = ContextVar("client")
_attempts: WeakKeyDictionary[Any, _Attempts] = WeakKeyDictionary()
_said: dict[str, float] = {}
"""Cause → when it was last logged in this process."""
_refused: dict[str, float] = {}
"""`at` → when brokers last did not let any client of this process in (`time.monotonic`); empty: never."""


class _Attempts:
    """What became of one client's attempts to connect. Owned by that client."""

    def __init__(self) -> None:
        self.failures: dict[tuple[str, int], Failures] = {}
        self.cause: Cause | None = None
        """Why the last attempt failed, where waiting does not mend it."""
        self.refused_at = float("-inf")
        """When brokers last did not let us in, as far as is known (`time.monotonic`)."""


def install() -> None:
    """Put guards 12 to 17 in place; harmless when repeated."""
    AIOKafkaClient.bootstrap = bootstrap
    AIOKafkaClient._get_conn = get_conn
    aiokafka.client.create_conn = create_conn
    OAuthAuthenticator.step = step_of_token
    for name, keeps in (
        ("aiokafka", _is_no_repetition),
        ("aiokafka.conn", _is_no_login),
        ("asyncio", _is_no_late_byte),
    ):
        logger = logging.getLogger(name)
        if keeps not in logger.filters:
            logger.addFilter(keeps)


async def bootstrap(self: Any) -> None:
    """For `AIOKafkaClient.bootstrap`: guard 12. Raises Trouble with the cause, or KafkaConnectionError."""
    attempts = _of(self)
    attempts.cause = None
    told = _client.set(self)
    try:
        await _plain_bootstrap(self)
    except errors.KafkaConnectionError:
        if attempts.cause is not None:
            raise Trouble(attempts.cause) from None
        raise
    finally:
        _client.reset(told)


async def get_conn(self: Any, node_id: Any, **named: Any) -> Any:
    """For `AIOKafkaClient._get_conn`, which swallows errors: they are kept for `cause_for`."""
    told = _client.set(self)
    try:
        return await _plain_get_conn(self, node_id, **named)
    finally:
        _client.reset(told)


async def create_conn(host: str, port: int, **named: Any) -> Any:
    """For `create_conn` of `aiokafka.client`: guards 12 to 15. Raises KafkaError, OSError, TimeoutError."""
    attempts = _of(_client.get())
    address = (host, port)
    failed = attempts.failures.get(address)
    if failed is not None and (left_s := failed.until - time.monotonic()) > 0:
        if attempts.cause is not None:
            raise Trouble(attempts.cause)
        raise errors.KafkaConnectionError(f"{host}:{port} could not be reached just now; tried again in {left_s:.1f} s")
    try:
        if isinstance(password := named.get("sasl_plain_password"), Revealed):
            named["sasl_plain_password"] = password.secret.revealed()
        connection = await _connected(AIOKafkaConnection(host, port, **named))
    except Exception as error:
        cause = _cause(error, _security(named))
        attempts.cause = cause
        attempts.failures[address] = backoff.after(
            failed, time.monotonic(), random.random(), is_refused=cause is not None
        )
        if cause is not None:
            attempts.refused_at = _refused["at"] = time.monotonic()
            _say(f"{host}:{port}", cause)
            raise Trouble(cause) from error
        if isinstance(error, errors.KafkaError | OSError | TimeoutError):
            raise
        raise errors.KafkaConnectionError(f"{host}:{port} answers as no broker does ({error!r})") from error
    attempts.failures.pop(address, None)
    if attempts.cause is not None:
        attempts.cause, attempts.refused_at = None, time.monotonic()
    return connection


async def _connected(connection: Any) -> Any:
    try:
        await connection.connect()
    except BaseException:
        if connection._protocol is not None:
            # It is being closed; where the loop ends before that, a socket stays open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSED_WITHIN_S):
                    await asyncio.shield(connection._closed_fut)
        raise
    return connection


async def step_of_token(self: Any, payload: bytes | None) -> Any:
    """For `OAuthAuthenticator.step`: guard 17. Raises SaslAuthenticationFailed."""
    if self._token_sent and payload:
        raise errors.SaslAuthenticationFailed(payload[:200].decode("utf-8", "replace"))
    return await _plain_step_of_token(self, payload)


def cause_for(client: Any) -> Cause | None:
    """Why the client's last attempt to connect failed, where waiting does not mend it."""
    return _of(client).cause


def refused_at(client: Any) -> float:
    """When brokers last did not let the client in: now, while it goes on trying; −∞: never (`time.monotonic`).

    Until then another process would have fared no better. For any thread.
    """
    attempts, now = _attempts.get(client), time.monotonic()
    if attempts is None:
        return float("-inf")
    is_refused = attempts.cause is not None and now - attempts.refused_at < _LATELY_S
    return now if is_refused else attempts.refused_at


def anybody_refused_at() -> float:
    """As `refused_at`, of whichever client of this process fared worst: producers are made anew all the time.

    Which of them tries on is not known, so the last refusal counts for a while.
    """
    at = _refused.get("at", float("-inf"))
    return now if (now := time.monotonic()) - at < _LATELY_S else at


def _of(client: Any) -> _Attempts:
    return _attempts.setdefault(client, _Attempts())


def _cause(error: Exception, security: Security) -> Cause | None:
    if isinstance(error, Refusal):
        return Cause(error.message)
    if (cause := cause_of(error, security)) is not None:
        return cause
    if isinstance(error, ValueError | KeyError | AssertionError) and isinstance(security.login, PasswordLogin):
        # The exchange of SCRAM, read by aiokafka.
        return Cause(
            "they do not prove that they know the password, as a broker of yours would",
            "look who listens at that address",
        )
    return None


def _security(named: dict[str, Any]) -> Security:
    """What a connection is made with, as far as a sentence needs it."""
    context, protocol = named.get("ssl_context"), str(named.get("security_protocol"))
    tls = context.tls if isinstance(context, RenewedContext) and protocol.endswith("SSL") else None
    login = None
    if protocol.startswith("SASL"):
        provider = named.get("sasl_oauth_token_provider")
        name = named.get("sasl_plain_username")
        login = getattr(provider, "login", None) or PasswordLogin(
            mechanism=str(named.get("sasl_mechanism")), username=str(name), password=Secret("")
        )
    return Security(tls=tls, login=login)


def _say(where: str, cause: Cause) -> None:
    now = time.monotonic()
    if now - _said.get(cause.why, float("-inf")) >= _SAID_AGAIN_S:
        _said[cause.why] = now
        # No error: a command says it as its refusal, and shows errors only.
        log.warning("a broker does not let us in", broker=where, why=str(cause))


def _is_no_repetition(record: logging.LogRecord) -> bool:
    """Whether it is not what `_say` tells once."""
    given = record.args if isinstance(record.args, tuple) else ()
    return not (str(record.msg).startswith("Unable connect to") and any(isinstance(one, Trouble) for one in given))


def _is_no_login(record: logging.LogRecord) -> bool:
    given = record.args if isinstance(record.args, tuple) else ()
    return not any(type(one).__name__.startswith(("SaslAuthenticate", "SaslHandShake")) for one in given)


def _is_no_late_byte(record: logging.LogRecord) -> bool:
    """A broker may still send while a client closes its connection; asyncio shows a stack trace of that."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ssl.SSLError) and error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY")
