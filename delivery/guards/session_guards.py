"""A guard over aiokafka 0.14.0 that keeps a login alive: re-authentication on the connection that is there (KIP-368).

19. Brokers say how long a login holds: as long as its token, or what `connections.max.reauth.ms` sets. Before that is
    over, the client logs in again on the same connection, while its other requests wait. Unguarded, brokers close the
    connection in the middle of whatever is under way, and each partition opens anew.

Where it does not succeed, as while the token endpoint is away, brokers close the connection: nothing is lost by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, Final
from weakref import ReferenceType, ref

import structlog
from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.admin import SaslAuthenticateRequest

from guideway.delivery.connection.trouble import Trouble

log = structlog.get_logger(__name__)

_AGAIN_AT: Final = (0.85, 0.95)
"""Of the time that a login holds, as Java's client has it; by chance in between."""
_LEAST_S: Final = 1.1
"""Brokers take no second login within a second of the first."""
_BEFORE_S: Final = 1.0
"""What is under way when it begins, such as a fetch that waits for records, is answered first."""

_plain_send = AIOKafkaConnection.send
_logging_in: ContextVar[bool] = ContextVar("logging_in", default=False)


def install() -> None:
    """Put guard 19 in place; harmless when repeated."""
    AIOKafkaConnection.send = send


def send(self: Any, request: Any, expect_response: bool = True) -> Awaitable[Any]:
    """For `AIOKafkaConnection.send`: requests wait while the connection logs in again."""
    if isinstance(request, SaslAuthenticateRequest):
        return _authenticate(self, request)
    again = self.__dict__.get("_login_again")
    if again is None or _logging_in.get():
        answer: Awaitable[Any] = _plain_send(self, request, expect_response)
        return answer
    return _send_after(again, self, request, expect_response)


async def _send_after(again: asyncio.Future[None], self: Any, request: Any, expect_response: bool) -> Any:
    await asyncio.shield(again)
    return await send(self, request, expect_response)


async def _authenticate(self: Any, request: Any) -> Any:
    response = await _plain_send(self, request)
    if response.error_code == 0 and (holds_ms := getattr(response, "session_lifetime_ms", 0)) > 0:
        wait_s = again_after(holds_ms / 1000, random.random())
        # The last step of a login says it; the timer holds no connection that nobody else holds.
        if (timer := self.__dict__.get("_login_timer")) is not None:
            timer.cancel()
        self._login_timer = self._loop.call_later(wait_s, _begin, ref(self))
    return response


def again_after(holds_s: float, chance: float) -> float:
    """Seconds until the next login, of one that holds `holds_s`. Pure. chance: of [0, 1)."""
    least, most = _AGAIN_AT
    return max(_LEAST_S, min(holds_s * (least + (most - least) * chance), holds_s - _BEFORE_S))


def _begin(held: ReferenceType[Any]) -> None:
    connection = held()
    if connection is not None and connection.connected():
        connection._login_task = asyncio.ensure_future(_log_in_again(connection))


async def _log_in_again(connection: Any) -> None:
    _logging_in.set(True)
    connection._login_again = done = asyncio.get_running_loop().create_future()
    try:
        await connection._do_sasl_handshake()
        log.debug("a login was renewed", broker=connection.host)
    except (errors.KafkaError, OSError, TimeoutError, ValueError, KeyError, AssertionError) as error:
        why = str(error.cause) if isinstance(error, Trouble) else repr(error)
        log.warning("a login could not be renewed; its connection will end", broker=connection.host, why=why)
        # Half a login is none: what is sent now would be refused.
        with contextlib.suppress(Exception):
            connection.close()
    finally:
        connection._login_again = None
        done.set_result(None)
