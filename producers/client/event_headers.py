"""What a caller asks, as headers of its event. Pure, but for the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from google.protobuf.message import EncodeError, Message

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.names.content_types import PROTOBUF

MAX_DEADLINE_S: Final = 1e9
"""The longest deadline that the client library takes, in seconds from now."""


def asked(
    request_id: str | None,
    guidance: Sequence[str],
    generation: Mapping[str, Any] | None,
    deadline_s: float | None,
) -> list[tuple[str, bytes]]:
    """The headers for what a caller asks. Raises Refusal(invalid_header)."""
    headers = []
    if request_id is not None:
        headers.append((header.REQUEST_ID, request_id.encode()))
    if guidance:
        headers.append((header.GUIDANCE, ",".join(guidance).encode()))
    if generation:
        headers.append((header.GENERATION, msgspec.json.encode(generation)))
    if deadline_s is not None:
        headers.append((header.DEADLINE, _deadline(deadline_s)))
    return headers


Content = Mapping[str, Any] | str | Message
"""Fields by name, plain text, or a Protobuf message."""


def encoded(content: Content) -> tuple[bytes, str]:
    """(value of an event, its content type). Raises Refusal(missing_field) for a message that is not whole."""
    if isinstance(content, str):
        return content.encode(), "text/plain"
    if not isinstance(content, Message):
        return msgspec.json.encode(content), "application/json"
    try:
        return content.SerializeToString(), f"{PROTOBUF}; messageType={content.DESCRIPTOR.full_name}"
    except EncodeError:
        raise Refusal(FailureCode.MISSING_FIELD, "the message lacks a field that it requires: set it") from None


def called(namespace: str, endpoint: str, via: str | None) -> list[tuple[str, bytes]]:
    """The header that names the endpoint on a general address."""
    return [] if via is None else [(header.ENDPOINT, endpoint_address(namespace, endpoint).encode())]


def _deadline(from_now_s: float) -> bytes:
    """The deadline's header: milliseconds since 1970. Raises Refusal(invalid_header) beyond `MAX_DEADLINE_S`."""
    if not abs(from_now_s) <= MAX_DEADLINE_S:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"deadline_s is {from_now_s}: give seconds from now, at most {MAX_DEADLINE_S:.0f}",
        )
    return str(int((time.time() + from_now_s) * 1000)).encode()
