"""Content types that messages name, beside plain JSON."""

from __future__ import annotations

from typing import Final

PROTOBUF: Final = "application/protobuf"
"""The content type of a Protobuf message; `; messageType=NAME` says which."""
REPLY_MESSAGE: Final = "guideway.v1.Reply"
"""The Protobuf message that every reply can be, and every failure is where Protobuf is wanted."""
CLOUD_EVENT_STRUCTURED: Final = "application/cloudevents"
