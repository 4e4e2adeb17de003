"""Caller → endpoint service: an event as it was understood, before any endpoint rule is applied to it."""

from __future__ import annotations

from typing import Any

import msgspec

from guideway.schemas.request import ReplyAddress


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event. JSON, plain text and both CloudEvents modes come to this."""

    id: str
    """The caller's (`request_id` header or CloudEvents id), else a hash of where the record stands."""
    content: dict[str, Any] | str
    """Fields by name, or plain text."""
    reply_to: ReplyAddress | None = None
    deadline_ms: int | None = None
    """Unix time in milliseconds."""
    guidance: list[str] = []
    """Guidance brought along: `NAMESPACE/NAME[@VERSION]`."""
