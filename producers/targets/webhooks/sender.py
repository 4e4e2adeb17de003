"""One attempt: a POST over a connection of its own, to an address that was looked up and checked a moment before.

httpcore asks our `_Pinned` for its connection, so the address that is checked is the one that is connected to. The
host's name stays in `Host`, in SNI and in the check of the certificate. Proxies of the environment, redirects, cookies
and compressed answers do not exist here.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpcore

from guideway.producers.targets.webhooks.egress import Egress
from guideway.producers.targets.webhooks.outcome import Answer, Broken, Forbidden, Outcome
from guideway.schemas.kinds.web_address import WebAddress

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → IP addresses. Raises OSError."""

_MAX_TRIED: Final = 2
"""Addresses of one host."""
_MAX_ANSWER_BYTES: Final = 16_384
_ANSWER_S: Final = 1.0
"""For the rest of an answer whose status is known: nobody needs it."""
_LOOK_UPS: Final = ThreadPoolExecutor(32, thread_name_prefix="look-up")


class Sender:
    """Posts to webhooks. It keeps nothing between attempts."""

    def __init__(self, egress: Egress, resolve: Resolve | None = None, trust: ssl.SSLContext | None = None) -> None:
        """resolve: how hosts are looked up; trust: which certificates are believed; None: as this machine has it."""
        self._egress = egress
        self._resolve = resolve or LookUps().of
        self._trust = trust or ssl.create_default_context()

    async def post(self, address: WebAddress, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Outcome:
        """What came of it, in `timeout_s` seconds at most. Raises nothing."""
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._found(address)
                if isinstance(found, Broken | Forbidden):
                    return found
                return await self._exchange(address, found, headers, body, timeout_s)
        except TimeoutError:
            return Broken(f"there was no answer within {timeout_s:g} s")
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            return Broken(f"the connection failed ({type(error).__name__})")

    async def _found(self, address: WebAddress) -> Sequence[str] | Broken | Forbidden:
        """The addresses of the host, all of which may be connected to; or why there is no attempt."""
        if (why := self._egress.refusal(address)) is not None:
            return Forbidden(why)
        try:
            ips = await self._resolve(address.host, address.port)
        except TimeoutError:
            raise
        except OSError as error:
            return Broken(f"the host {address.host} was not found ({error.strerror or 'no answer'})")
        if not all(map(self._may_reach, ips)):
            # Not the others either: whoever mixes them wants us to take our choice.
            return Forbidden(
                f"the host {address.host} has an address that is not public, and the platform does not list it in "
                "GUIDEWAY_EGRESS"
            )
        return ips or Broken(f"the host {address.host} has no address")

    def _may_reach(self, ip: str) -> bool:
        try:
            return self._egress.lets_to(ipaddress.ip_address(ip))
        except ValueError:
            return False

    async def _exchange(
        self, address: WebAddress, ips: Sequence[str], headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        url = httpcore.URL(
            scheme=address.scheme.encode(),
            host=address.host.encode(),
            port=address.port,
            target=address.path.encode(),
        )
        sent = [("host", address.authority), ("accept-encoding", "identity"), ("connection", "close"), *headers.items()]
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._trust,
                max_connections=1,
                max_keepalive_connections=0,
                network_backend=_Pinned(ips[:_MAX_TRIED]),
            ) as pool,
            pool.stream(
                "POST",
                url,
                headers=[(name.encode(), value.encode()) for name, value in sent],
                content=body,
                extensions={"timeout": limits},
            ) as response,
        ):
            answer = Answer(response.status, _retry_after_s(response.headers, time.time()))
            # Whoever closes too early looks like one who has not heard. More than this is of no use to anybody.
            with contextlib.suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
                async with asyncio.timeout(_ANSWER_S):
                    read = 0
                    async for piece in response.aiter_stream():
                        read += len(piece)
                        if read > _MAX_ANSWER_BYTES:
                            break
            return answer


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were chosen before, whatever the name."""

    def __init__(self, ips: Sequence[str]) -> None:
        self._ips = ips
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        for one in self._ips[:-1]:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._backend.connect_tcp(one, port, (timeout or 4) / 4, local_address, socket_options)
        return await self._backend.connect_tcp(self._ips[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("no socket of this machine is a webhook")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class LookUps:
    """Looks hosts up as this machine does, each once at a time: nobody can end a look-up, and one whose name server is
    slow is to keep one thread only.
    """

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], asyncio.Future[Any]] = {}

    async def of(self, host: str, port: int) -> list[str]:
        """The addresses of a host. Raises OSError."""
        place = host, port
        if (asked := self._under_way.get(place)) is None:
            asked = self._under_way[place] = asyncio.get_running_loop().run_in_executor(
                _LOOK_UPS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            asked.add_done_callback(lambda done: self._end(place, done))
        found = await asyncio.shield(asked)
        return list(dict.fromkeys(str(one[4][0]) for one in found))

    def _end(self, place: tuple[str, int], done: asyncio.Future[Any]) -> None:
        del self._under_way[place]
        if not done.cancelled():
            # Where nobody waits any more, nobody is to be told that it failed.
            done.exception()


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]], now: float) -> float | None:
    """Seconds, from a number or a date; None where the receiver says nothing that can be read."""
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin-1").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    return None
