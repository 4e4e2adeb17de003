"""The HTTP door on a port, by uvicorn."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvicorn

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.app import make_app
from guideway.producers.gateway.http.protocol import patient_protocol
from guideway.schemas.failures import FailureCode, Refusal


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where a door listens."""

    host: str
    port: int
    """0: any that is free."""
    certificate: Path | None = None
    """PEM, with the chain; None: without TLS."""
    key: Path | None = None
    """PEM; None: in the file of the certificate."""


def listening(listen: Listen) -> socket.socket:
    """A socket that is bound, and not read yet. Raises Refusal(invalid_setting)."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _no_place(listen, error) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise _no_place(listen, error) from None
    return made


class HttpServer:
    """Serves until `stop`."""

    def __init__(self, gateway: Gateway, listen: Listen) -> None:
        """The certificate must be one that `require_certificate` lets pass."""
        self._gateway = gateway
        settings = gateway.settings
        config = uvicorn.Config(
            make_app(gateway),
            http=patient_protocol(settings.header_timeout_s, settings.send_timeout_s),
            ws="none",
            lifespan="off",
            # Who stands before us may write what it likes into X-Forwarded-For; nothing is decided by it.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            h11_max_incomplete_event_size=settings.max_header_bytes,
            timeout_keep_alive=int(settings.idle_timeout_s),
            timeout_graceful_shutdown=int(settings.drain_s),
            ssl_certfile=listen.certificate,
            ssl_keyfile=listen.key,
        )
        self._server = _Server(config)

    async def run(self, bound: socket.socket) -> None:
        """Serve on this socket. Returns when what was under way at `stop` is done, or has taken too long."""
        await self._server.serve(sockets=[bound])

    def stop(self) -> None:
        """Take no more connections, and nothing more on those that there are."""
        self._gateway.room.closed = True
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Whoever runs the process hears of them.
        yield


def require_certificate(listen: Listen) -> None:
    """Raises Refusal(invalid_setting)."""
    if listen.certificate is None:
        if listen.key is not None:
            raise Refusal(FailureCode.INVALID_SETTING, "there is a key without a certificate: name both, or neither")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            listen.certificate, listen.key, password=_no_password
        )
    except (OSError, ValueError) as error:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the certificate {listen.certificate} and its key cannot be used ({type(error).__name__}): give PEM "
            "files that belong together, the key without a password",
        ) from None


def _no_password() -> str:
    raise ValueError("it has a password")


def _no_place(listen: Listen, error: Exception) -> Refusal:
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return Refusal(
        FailureCode.INVALID_SETTING, f"the gateway cannot listen at {listen.host}:{listen.port} ({why}): name another"
    )
