"""Retrieval process → I/O process."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.workers.messages.every_child import Broken, Ready, Refused
from guideway.workers.messages.frames import Message


class FoundPassage(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that was chosen."""

    set: int
    """Place of its set in the lookup."""
    id: str
    text: str
    score: float


class Found(Message, frozen=True, tag="found"):
    """The passages for the text, best first; none is an answer too."""

    id: str
    passages: list[FoundPassage]


FromRetrieval = Ready | Broken | Found | Refused
FROM_RETRIEVAL: Final[msgspec.msgpack.Decoder[FromRetrieval]] = msgspec.msgpack.Decoder(
    Ready | Broken | Found | Refused
)
