"""What a door asks for, in one form for all doors. Pure."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from typing import Final

import msgspec

from guideway.producers.events.envelope import MAX_HEADER_BYTES, MAX_ID_CHARS, is_id
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header

_KEY_PREFIX: Final = "key-"
_MOST_HEADER_BYTES: Final = 2**16
"""Of all headers of an event: more than any that is not refused later has."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a caller, decoded as far as the door must."""

    namespace: str
    """The caller's, from its identity, never from a field."""
    address: str | None
    """`/NAMESPACE/NAME`; None: the router of the caller's namespace decides."""
    content: bytes
    content_type: str
    """As it was sent; empty: none."""
    request_id: str | None = None
    """Names the work; None: an id is made. Unlike every other of the namespace, and not to be guessed by others."""
    idempotency_key: str | None = None
    """Of the caller, one for each piece of work at an endpoint; then the id follows from it."""
    keep: bool = False
    """Whether the request can be asked for later, at any gateway. With a key of the caller it always can."""
    deadline_ms: int | None = None
    """Unix time in milliseconds."""
    guidance: tuple[str, ...] = ()
    key: bytes | None = None
    """Of the record."""
    reply_as: str | None = None
    """Content type that is wanted of the reply."""
    partial: bool = False
    """Whether text is to be told while it is generated."""
    headers: tuple[tuple[str, bytes], ...] = ()
    """Further headers of the event: the trace context, and what a door needs for itself."""

    @property
    def kept(self) -> bool:
        """Whether gateways must find the request again."""
        return self.keep or self.idempotency_key is not None

    @property
    def event_headers(self) -> list[tuple[str, bytes]]:
        """Those headers of its event that say what is called for, and in which form."""
        found = [*self.headers]
        if self.content_type:
            found.append((header.CONTENT_TYPE, self.content_type.encode()))
        if self.reply_as is not None:
            found.append((header.ACCEPT, self.reply_as.encode()))
        if self.guidance:
            found.append((header.GUIDANCE, ",".join(self.guidance).encode()))
        if self.deadline_ms is not None:
            found.append((header.DEADLINE, str(self.deadline_ms).encode()))
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides on the result, so not of deadlines and traces."""
        of = hashlib.sha256()
        parts: list[bytes | None] = [
            self.address.encode() if self.address is not None else None,
            self.content,
            self.content_type.encode(),
            ",".join(self.guidance).encode(),
            self.key,
            self.reply_as.encode() if self.reply_as is not None else None,
        ]
        parts += [
            part for name, value in self.headers if name not in header.ECHOED_HEADERS for part in (name.encode(), value)
        ]
        for part in parts:
            # With its length: else two lists of parts could read alike.
            of.update(b"-" if part is None else b"%d:" % len(part) + part)
        return of.hexdigest()


def require_small_headers(call: Call) -> None:
    """What stands in a message may become a header, of any length. Raises Refusal(invalid_header)."""
    sizes = {name: len(name) + len(value) for name, value in call.event_headers}
    longest = max(sizes, key=sizes.__getitem__, default="")
    if longest and sizes[longest] > MAX_HEADER_BYTES:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"the event's {longest} has {sizes[longest]:,} bytes, and {MAX_HEADER_BYTES:,} are read: shorten it",
        )
    if sum(sizes.values()) > _MOST_HEADER_BYTES:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"the event's {longest} has {sizes[longest]:,} bytes, and what goes with an event beside its content may "
            f"have {_MOST_HEADER_BYTES:,} together: shorten it",
        )


def id_of(call: Call) -> str:
    """The id under which the call is known in its namespace. Raises Refusal(invalid_header)."""
    if call.idempotency_key is not None:
        if not call.idempotency_key or not is_id(call.idempotency_key):
            raise Refusal(
                FailureCode.INVALID_HEADER,
                f"an idempotency key has 1 to {MAX_ID_CHARS} printable characters: give another",
            )
        # One key may be used at several endpoints.
        of = f"{call.address or ''}\0{call.idempotency_key}".encode()
        return _KEY_PREFIX + hashlib.sha256(of).hexdigest()[:32]
    if call.request_id is not None:
        if not call.request_id or not is_id(call.request_id):
            raise Refusal(
                FailureCode.INVALID_HEADER, f"an id has 1 to {MAX_ID_CHARS} printable characters: give another"
            )
        return call.request_id
    return new_id(time.time_ns() // 1_000_000)


def new_id(now_ms: int) -> str:
    """32 hexadecimal digits: UUID version 7 without hyphens (RFC 9562), so its age can be told."""
    number = int.from_bytes(os.urandom(10))
    number = (now_ms & (2**48 - 1)) << 80 | number
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return f"{number:032x}"


def id_after(given: str | None) -> str | None:
    """An id that begins with what a client calls its request, and is unlike every other; None for None.

    Clients and proxies give the same name to a request that they send again, and work that was cancelled under an id
    stays cancelled for an hour.
    """
    if not given or not is_id(given):
        return given
    return f"{given[: MAX_ID_CHARS - 17]}.{secrets.token_hex(8)}"


def made_ms(request_id: str) -> int | None:
    """When `new_id` made this id, Unix milliseconds; None: it is not of its making."""
    if len(request_id) != 32 or request_id[12] != "7" or request_id[16] not in "89ab":
        return None
    try:
        return int(request_id[:12], 16)
    except ValueError:
        return None
