"""Signatures and payloads by the rules of Standard Webhooks 1.0 (https://www.standardwebhooks.com).

`webhook-signature` has `v1,` and the Base64 of HMAC-SHA-256(secret, ID.TIMESTAMP.BODY), one for each secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets as randomness
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from guideway.schemas.record import Record
from guideway.schemas.services.leaving import Result

PREFIX: Final = "whsec_"
_LEAST, _MOST = 24, 64
"""Bytes of a secret."""


def new_secret() -> str:
    """A secret as people write it."""
    return PREFIX + base64.b64encode(randomness.token_bytes(32)).decode()


def secret_of(text: str) -> bytes:
    """The bytes of a written secret. Raises ValueError, which does not quote it."""
    try:
        if not text.startswith(PREFIX):
            raise ValueError
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"a secret is {PREFIX} and Base64") from None
    if not _LEAST <= len(secret) <= _MOST:
        raise ValueError(f"a secret has {_LEAST} to {_MOST} bytes, not {len(secret)}")
    return secret


def signed_headers(delivery_id: str, body: bytes, secrets: Sequence[bytes], now: float) -> dict[str, str]:
    """The headers of one attempt. now: Unix time in seconds."""
    stamp = str(int(now))
    signed = b".".join([delivery_id.encode(), stamp.encode(), body])
    marks = [base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "guideway",
        "webhook-id": delivery_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{mark}" for mark in marks),
    }


def delivery_id(record: Record, webhook: str) -> str:
    """The id of what a result is to a webhook: the same whoever makes it, and however often."""
    place = f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp_ms}/{webhook}"
    return f"msg_{hashlib.sha256(place.encode()).hexdigest()[:32]}"


def payload(result: Result, namespace: str, since_ms: int, max_bytes: int) -> str:
    """The body. One that is larger than `max_bytes` says only whose result it is, and how it ended."""
    kind = f"guideway.reply.{'completed' if result.completed else 'failed'}"
    moment = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def body(data: Any) -> str:
        return msgspec.json.encode({"type": kind, "timestamp": moment, "data": data}).decode()

    if result.reply is not None and len((whole := body(result.reply)).encode()) <= max_bytes:
        return whole
    thin = {
        "id": result.id,
        "namespace": namespace,
        "endpoint": result.endpoint,
        "endpoint_version": result.endpoint_version,
        "omitted": "the reply is larger than max_payload_bytes: read it where you called, by its id",
    }
    return body(thin)
