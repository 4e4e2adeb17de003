"""What all doors of one process share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import msgspec
import structlog

from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.gateway.calls import MAX_EVENT_BYTES, Calls
from guideway.producers.gateway.identity.identities import Identities
from guideway.producers.gateway.identity.key_set import KeySet
from guideway.producers.gateway.identity.key_topic import KeyFollower
from guideway.producers.gateway.identity.tokens import Tokens, TokenSettings
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.room import Room
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME, RESERVED_NAMESPACES

log = structlog.get_logger(__name__)


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one process; times in seconds."""

    cluster: Cluster
    tokens: TokenSettings | None = None
    """Of an identity provider; None: keys only."""
    open_to: str | None = None
    """A namespace as which everybody calls who shows nothing."""
    max_body_bytes: int = 2**20
    """Of one request."""
    max_bodies_bytes: int = 64 * 2**20
    """Of all bodies that are being read, answers that are being sent, and what waits for clients of streams, at a time;
    half of it of one namespace."""
    store: str | None = None
    """Where files of batches are kept, any fsspec address: the one that the batchers have. None: there are none."""
    kept_s: int = 30 * 86_400
    """For how long batchers keep results, and gateways why there was no job of a batch."""
    max_file_bytes: int = 512 * 2**20
    """Of one file."""
    max_files: int = 1000
    """Of one namespace."""
    max_files_bytes: int = 20 * 2**30
    """Of all files of one namespace."""
    max_header_bytes: int = 32 * 2**10
    """Of one request, all headers together with the request line."""
    max_requests: int = 4096
    """Under way at a time, those that wait for a reply included."""
    max_requests_of_one: int = 2048
    """Of one namespace."""
    header_timeout_s: float = 10.0
    """For the first byte of a request to the last of its headers."""
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 30.0
    """A connection on which nothing is asked for so long is closed."""
    send_timeout_s: float = 60.0
    """For a client that does not read what it is sent: for each 64 KiB of it."""
    max_wait_s: float = 300.0
    """The longest that a request may wait for its reply, and how long it waits where nothing else is said."""
    connection_s: float = 120.0
    """A gRPC connection takes no more calls after so long; clients open another. With `max_wait_s` it bounds how long a
    call lasts that nobody reads: nothing but the end of its connection ends it."""
    keep_alive_s: float = 15.0
    """Between two signs of life on a stream on which nothing else is sent."""
    drain_s: float = 20.0
    """At the end, for requests that wait."""

    def __post_init__(self) -> None:
        """Raises Refusal(invalid_setting)."""
        if self.max_body_bytes > MAX_EVENT_BYTES:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"no event has more than {MAX_EVENT_BYTES} bytes: lower the body's limit"
            )
        if self.open_to is not None and (not NAME.fullmatch(self.open_to) or self.open_to in RESERVED_NAMESPACES):
            raise Refusal(FailureCode.INVALID_SETTING, f"{self.open_to[:80]!r} is no namespace: name the one to open")


class Gateway:
    """`async with Gateway(settings) as gateway:` – connected, and all is read that it must know before it answers."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.room = Room(
            most=settings.max_requests,
            most_of_one=settings.max_requests_of_one,
            most_bytes=max(settings.max_bodies_bytes, settings.max_body_bytes),
            most_bytes_of_one=max(settings.max_bodies_bytes // 2, settings.max_body_bytes),
        )
        self.calls = Calls(settings.cluster, self.room)
        self.catalogue_reader = CatalogueFollower(settings.cluster)
        """`catalogue_reader.catalogue`: what endpoints there are. Doors describe them; whether one may be called is
        decided on the road."""
        self._keys = KeyFollower(settings.cluster)
        self._left: set[asyncio.Task[None]] = set()
        self._beside: list[asyncio.Task[None]] = []
        tokens = Tokens(settings.tokens, KeySet(settings.tokens.key_set_url)) if settings.tokens is not None else None
        self.identities = Identities(self._keys.keys, tokens, open_to=settings.open_to)

    async def __aenter__(self) -> Gateway:
        """Raises Refusal: broker_unreachable; invalid_setting where there is no catalogue."""
        async with AsyncExitStack() as stack:
            for part in (self._keys, self.catalogue_reader, self.calls):
                await stack.enter_async_context(part)
            if not self._keys.is_there and self.settings.open_to is None:
                log.warning("there is no topic of keys, so no key counts: run `guideway keys create`")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await asyncio.gather(*self._left)
        await self._stack.aclose()

    def run_beside(self, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have this run as long as the gateway does; at its end it is cancelled."""
        self._beside.append(asyncio.create_task(do(), name="beside all requests"))

    async def require_ready(self) -> None:
        """Raises: Refusal(broker_unreachable); DoorRefusal(busy) while it is ending."""
        if self.room.closed:
            raise DoorRefusal(DoorCode.BUSY, "this gateway is ending")
        await self.calls.require_brokers()

    async def is_ready(self) -> bool:
        """Whether `require_ready` raises nothing."""
        try:
            await self.require_ready()
        except (Refusal, DoorRefusal):
            return False
        return True

    def abandon(self, pending: Pending) -> None:
        """Nobody wants its reply any more: it is cancelled, behind the caller's back."""
        task = asyncio.create_task(_cancelled(pending), name="cancel what nobody waits for")
        self._left.add(task)
        task.add_done_callback(self._left.discard)


async def _cancelled(pending: Pending) -> None:
    # Where it cannot be said, its deadline ends it.
    with contextlib.suppress(Refusal):
        await pending.cancel()
