"""The gateway and its keys, made from the settings of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.keys import Key
from guideway.settings import Settings
from guideway.usecases.extras import importing
from guideway.usecases.rights.create import require_namespace

if TYPE_CHECKING:
    from guideway.producers.gateway.gateway import Gateway
    from guideway.producers.gateway.http.server import HttpServer, Listen
    from guideway.producers.gateway.rpc.server import RpcServer

_MOST_DAYS: Final = 36_500


class Doors:
    """What a gateway's process runs."""

    def __init__(self, http: HttpServer, bound: Any, rpc: RpcServer | None) -> None:
        self._http, self._bound, self._rpc = http, bound, rpc

    @property
    def http_port(self) -> int:
        return int(self._bound.getsockname()[1])

    @property
    def grpc_port(self) -> int | None:
        """None: there is no gRPC."""
        return None if self._rpc is None else self._rpc.port

    async def run(self) -> None:
        """Until `stop`, and what is under way then is done or has taken too long."""
        async with asyncio.TaskGroup() as doors:
            doors.create_task(self._http.run(self._bound))
            if self._rpc is not None:
                doors.create_task(self._rpc.run())

    def stop(self, _within_s: float | None = None) -> None:
        """End `run`: nothing new is begun."""
        self._http.stop()
        if self._rpc is not None:
            self._rpc.stop()


@asynccontextmanager
async def gateway(
    settings: Settings,
    *,
    host: str,
    port: int,
    grpc_port: int | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    open_to: str | None = None,
    limits: dict[str, Any],
    say: Callable[[str], None],
) -> AsyncIterator[Doors]:
    """The doors of one process, connected and ready to serve.

    grpc_port: None: no gRPC; 0: any that is free. The certificate is for both.
    limits: fields of `GatewaySettings` that are not to have their default. say: what whoever runs it must know.
    Raises Refusal: invalid_setting, broker_unreachable.
    """
    with importing("gateway"):
        from guideway.producers.gateway.gateway import Gateway, GatewaySettings
        from guideway.producers.gateway.http.server import HttpServer, Listen, listening, require_certificate
        from guideway.producers.gateway.identity.tokens import TokenSettings

    def tokens() -> TokenSettings | None:
        if settings.jwt_issuer is None and settings.jwt_keys_url is None and settings.jwt_audience is None:
            return None
        more: dict[str, Any] = {
            "algorithms": tuple(one.strip() for one in (settings.jwt_algorithms or "").split(",") if one.strip()),
            "claim": settings.jwt_claim,
        }
        return TokenSettings(
            issuer=settings.jwt_issuer or "",
            audience=settings.jwt_audience or "",
            key_set_url=settings.jwt_keys_url or "",
            **{name: value for name, value in more.items() if value},
        )

    here = _is_here(host)
    if open_to is not None and not here:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"--open lets everybody in who reaches {host}: it is for --host 127.0.0.1 only; make keys with "
            "`guideway keys create`",
        )
    made = GatewaySettings(
        cluster=settings.cluster(),
        tokens=tokens(),
        open_to=open_to,
        store=settings.store,
        kept_s=settings.batch_days * 86_400,
        **limits,
    )
    listen = Listen(host=host, port=port, certificate=certificate, key=key)
    require_certificate(listen)
    bound = listening(listen)
    try:
        async with Gateway(made) as running:
            rpc = None
            if grpc_port is not None:
                rpc = await _rpc(running, msgspec.structs.replace(listen, port=grpc_port))
            doors = Doors(HttpServer(running, listen), bound, rpc)
            scheme = "http" if certificate is None else "https"
            say(f"listening at {scheme}://{_shown(host)}:{doors.http_port}")
            if doors.grpc_port is not None:
                say(f"gRPC at {_shown(host)}:{doors.grpc_port}")
            if open_to is not None:
                say(f"OPEN: every program of this machine calls as namespace {open_to}, without a key")
            elif certificate is None and not here:
                say("keys and texts travel in clear: name --certificate, or stand behind what does TLS")
            yield doors
    finally:
        bound.close()


async def _rpc(gateway: Gateway, listen: Listen) -> RpcServer:
    from guideway.producers.gateway.rpc.server import RpcServer

    made = RpcServer(gateway, listen)
    await made.start()
    return made


async def create_key(
    settings: Settings, namespace: str, *, name: str = "", days: float | None = None
) -> tuple[Key, str]:
    """A key of the namespace, and its text, which is kept nowhere. days: until it expires; None: it does not.

    Raises Refusal: invalid_setting, not_allowed, broker_unreachable.
    """
    from guideway.producers.gateway.identity.key_topic import write_key
    from guideway.producers.gateway.identity.keys import new_key

    require_namespace(namespace)
    if len(name) > 100 or not name.isprintable():
        raise Refusal(FailureCode.INVALID_SETTING, "a key's name has at most 100 printable characters: shorten it")
    if days is not None and not 0 <= days <= _MOST_DAYS:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"a key expires after 0 to {_MOST_DAYS} days, or never: {days:g} is none of these",
        )
    cluster = settings.answering_cluster()
    await make_topics(cluster, [topics.KEYS])
    now_ms = time.time_ns() // 1_000_000
    expires_ms = None if days is None else now_ms + int(days * 86_400_000)
    made, text = new_key(namespace, now_ms=now_ms, name=name, expires_ms=expires_ms)
    await write_key(cluster, made)
    return made, text


async def list_keys(settings: Settings, namespace: str | None = None) -> list[Key]:
    """All keys, or those of a namespace, the oldest first. Raises Refusal: broker_unreachable, not_allowed."""
    from guideway.producers.gateway.identity.key_topic import read_keys

    keys = await read_keys(settings.answering_cluster())
    return sorted((one for one in keys if namespace in (None, one.namespace)), key=lambda one: one.made_ms)


async def revoke_key(settings: Settings, key_id: str) -> Key:
    """From now on the key does not count; gateways hear of it within a second.

    Raises Refusal: invalid_setting where there is no such key, broker_unreachable, not_allowed.
    """
    from guideway.producers.gateway.identity.key_topic import read_keys, write_key

    cluster = settings.answering_cluster()
    key = (await read_keys(cluster)).get(key_id)
    if key is None:
        raise Refusal(FailureCode.INVALID_SETTING, f"there is no key {key_id[:40]!r}: `guideway keys list` shows them")
    if key.revoked_ms is None:
        key = msgspec.structs.replace(key, revoked_ms=time.time_ns() // 1_000_000)
        await write_key(cluster, key)
    return key


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
