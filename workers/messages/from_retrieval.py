"""Retrieval process → I/O process."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode
from guideway.workers.messages.every_child import Broken, Ready
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


class NotFound(Message, frozen=True, tag="not_found"):
    """The lookup cannot be done."""

    id: str
    code: FailureCode
    message: str
    altered: str = ""
    """Digest of an artefact whose copy on this machine's disk is not what it was: fetched again, it may be done."""


FromRetrieval = Ready | Broken | Found | NotFound
FROM_RETRIEVAL: Final[msgspec.msgpack.Decoder[FromRetrieval]] = msgspec.msgpack.Decoder(
    Ready | Broken | Found | NotFound
)
