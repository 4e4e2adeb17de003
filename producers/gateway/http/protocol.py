"""HTTP/1.1 by uvicorn and h11, and three things more.

A head must come in time, a wrong one is told what it is, and nothing is kept for a client that does not read it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from http import HTTPStatus
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from guideway.producers.gateway.call import new_id
from guideway.producers.gateway.http.guard import REQUEST_ID
from guideway.producers.gateway.http.problems import problem
from guideway.producers.gateway.status import DoorCode

_LEAST_READ_BYTES: Final = 2**16
"""What a client reads in the time for it, of what is kept for it. A connection keeps no more where nobody waits."""


def patient_protocol(header_timeout_s: float, send_timeout_s: float) -> type[H11Protocol]:
    """The protocol for uvicorn's `http`.

    header_timeout_s: seconds for a request's line and headers.
    send_timeout_s: for each 64 KiB that a client is to read.
    """

    class Patient(_Timed):
        head_s, read_s = header_timeout_s, send_timeout_s

    return Patient


class _Timed(H11Protocol):
    """A connection is closed on which a request's head is begun and not ended in time, or a response is not read.

    uvicorn itself closes connections that rest between two requests, and waits without end for the first one, and for
    the rest of each. A connection that it closes is there until its client has read all of the response.
    """

    head_s: ClassVar[float]
    read_s: ClassVar[float]
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # What the kernel does not take is unread: it is waited for, and watched. Over TLS, nothing at all reaches 0.
        transport.set_write_buffer_limits(high=1, low=0)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._arm()
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More is kept for the client than a connection may keep."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has read it."""
        super().resume_writing()
        self._stop_watching()

    def send_400_response(self, msg: str) -> None:
        """What h11 cannot read is refused as everything else is, in place of uvicorn's bare text."""
        error = sys.exception()
        too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        response = (
            problem(DoorCode.HEADERS_TOO_LARGE, "the request's line and headers are too large: shorten them")
            if too_large
            else problem(DoorCode.BAD_REQUEST, "this is no request, or could be read in two ways: send plain HTTP/1.1")
        )
        headers = [
            *response.raw_headers,
            (REQUEST_ID.encode(), new_id(time.time_ns() // 1_000_000).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(
                status_code=response.status_code,
                headers=headers,
                reason=HTTPStatus(response.status_code).phrase.encode(),
            ),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._give_up)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def _watch(self) -> None:
        self._stop_watching()
        kept = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(self.read_s, self._require_read, kept)

    def _stop_watching(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _require_read(self, kept: int) -> None:
        if self.transport.get_write_buffer_size() > kept - _LEAST_READ_BYTES:
            # `close` would wait for the client, perhaps without end.
            self.transport.abort()
        else:
            self._watch()
