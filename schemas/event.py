"""Caller → endpoint service: an event as it was read, before any endpoint rule is applied to it."""

from __future__ import annotations

from typing import Any

import msgspec

from guideway.schemas.generation import AskedGeneration
from guideway.schemas.request import ReplyAddress


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event, whether it came as JSON, as plain text or in one of the two CloudEvents modes."""

    id: str
    """The caller's id (`request_id` header or CloudEvents id), else a hash of the record's topic and offset."""
    content: dict[str, Any] | str
    """Fields by name, or plain text."""
    reply_to: ReplyAddress | None = None
    deadline_ms: int | None = None
    """Unix time in milliseconds."""
    reply_message: str | None = None
    """The Protobuf message that the reply is to be; empty: any; None: JSON."""
    guidance: list[str] = []
    """Guidance that the event names: `NAMESPACE/NAME[@VERSION]`."""
    generation: AskedGeneration = AskedGeneration()
    """Generation parameters that the event sets."""
    partial: bool = False
    """Whether the text is told piece by piece while it is made."""
