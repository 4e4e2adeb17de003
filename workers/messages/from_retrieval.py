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


class Embedded(Message, frozen=True, tag="embedded"):
    """The vectors of the texts, of length 1."""

    id: str
    dimension: int
    vectors: bytes
    """[texts, dimension], float32, little-endian, row by row."""


FromRetrieval = Ready | Broken | Found | Embedded | Refused
FROM_RETRIEVAL: Final[msgspec.msgpack.Decoder[FromRetrieval]] = msgspec.msgpack.Decoder(
    Ready | Broken | Found | Embedded | Refused
)
