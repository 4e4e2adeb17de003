"""The gRPC server: its services, its limits, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio

from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.server import Listen, require_certificate
from guideway.producers.gateway.rpc import endpoints, inference_service
from guideway.producers.gateway.rpc.methods import Methods, grace_s, longest_s
from guideway.producers.gateway.rpc.open_services import OpenServices
from guideway.schemas.failures import FailureCode, Refusal

_PING_MS: Final = 30_000
"""After so long without a word a client is asked whether it is there."""
_PING_TIMEOUT_MS: Final = 20_000
"""So long it has for the answer; then its calls are cancelled."""
_LEAST_PING_INTERVAL_MS: Final = 10_000
"""Clients that ping more often are disconnected."""
_IDLE_MS: Final = 300_000
"""A connection without calls is closed after so long; clients open another when they need it."""
_CALLS_OF_A_CONNECTION: Final = 500
"""At a time; clients wait beyond it."""
_LOOK_S: Final = 2.0
"""Between two looks whether the brokers are there."""
_ROOM_BESIDE: Final = 2**16
"""Bytes of a message beside its content."""


class RpcServer:
    """`await server.start()`, then `await server.run()`, which returns some time after `server.stop()`."""

    def __init__(self, gateway: Gateway, listen: Listen) -> None:
        """Raises Refusal(invalid_setting) for a certificate that cannot be used."""
        require_certificate(listen)
        self.gateway, self._listen = gateway, listen
        methods = Methods(gateway)
        self._handlers = {
            endpoints.SERVICE: endpoints.Endpoints(gateway).handlers(methods),
            inference_service.SERVICE: inference_service.InferenceService(gateway).handlers(methods),
        }
        self._open = OpenServices([*self._handlers], longest_s=longest_s(gateway.settings))
        self._stopping = asyncio.Event()
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises Refusal(invalid_setting) where it cannot."""
        settings, listen = self.gateway.settings, self._listen
        self._server = aio.server(options=_options(settings), maximum_concurrent_rpcs=settings.max_requests)
        self._server.add_generic_rpc_handlers((*self._handlers.values(), *self._open.handlers()))
        self._open.tell(is_ready=True)
        place = f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}"
        try:
            if listen.certificate is None:
                self.port = self._server.add_insecure_port(place)
            else:
                self.port = self._server.add_secure_port(place, _credentials(listen.certificate, listen.key))
        except RuntimeError:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"gRPC cannot listen at {place}: name another address or port"
            ) from None
        await self._server.start()

    async def run(self) -> None:
        """Serve until `stop`. Returns when what was under way then is done, or has taken too long."""
        try:
            await self._tell_health()
            self._open.tell(is_ready=False)
            await self._server.stop(self.gateway.settings.drain_s)
        finally:
            await self._server.stop(0)

    async def _tell_health(self) -> None:
        """Until `stop`: whoever watches the health learns whether the brokers are there."""
        while not self._stopping.is_set():
            self._open.tell(is_ready=await self.gateway.is_ready())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._stopping.wait()

    def stop(self) -> None:
        """Say that it is ending, and take no new calls."""
        self.gateway.room.closed = True
        self._stopping.set()


def _options(settings: GatewaySettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes + _ROOM_BESIDE),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", int(settings.header_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.max_connection_age_ms", int(settings.connection_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(grace_s(settings) * 1000)),
        ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
        # Two gateways at one port would each get some of the calls.
        ("grpc.so_reuseport", 0),
    ]


def _credentials(certificate: Path, key: Path | None) -> grpc.ServerCredentials:
    """Of files, which may be replaced while the server runs."""

    def read() -> tuple[bytes, bytes]:
        try:
            return (key or certificate).read_bytes(), certificate.read_bytes()
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{error.filename} cannot be read ({error.strerror}): name another file"
            ) from None

    held = read()

    def replaced() -> Any:
        nonlocal held
        try:
            now = read()
        except Refusal:
            # It is being replaced: the next connection gets it.
            return None
        if now == held:
            return None
        held = now
        return grpc.ssl_server_certificate_configuration([now])

    first = grpc.ssl_server_certificate_configuration([held])
    return grpc.dynamic_ssl_server_credentials(first, replaced)
