"""I/O process ↔ retrieval process: one union a direction, framed as `workers/messages.py` frames."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import Retrieval
from guideway.workers.messages import Broken, Ready, Stop
from guideway.workers.retrieval.settings import RetrievalSettings


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


# I/O → retrieval -----------------------------------------------------------------------------------------------------


class StartRetrieval(_Message, frozen=True, tag="start"):
    """The first message."""

    settings: RetrievalSettings
    model: Model
    """The base model, in whose tokens budgets are kept."""
    model_cache: str


class SetArtefact(msgspec.Struct, frozen=True, kw_only=True):
    """One set's version, fetched, checked and on this machine's disk."""

    name: str
    """`NAMESPACE/NAME@VERSION`"""
    digest: str
    folder: str
    by_content: bool = False
    """Whether the digest is that of the folder's bytes, as of all that was published: they are hashed when it is
    opened."""
    passages: int
    fingerprint: str
    """Of the embedding model that its vectors are by."""


class Lookup(_Message, frozen=True, tag="lookup"):
    """Find passages for one request. It ends in exactly one `Found` or `NotFound`."""

    id: str
    """Chosen by the I/O process, opaque to the other."""
    wanted: Retrieval
    artefacts: list[SetArtefact]
    """In the order of `wanted.sets`."""


class Opened(_Message, frozen=True, tag="opened"):
    """From within the process: an index has been opened, or could not be."""


ToRetrieval = StartRetrieval | Lookup | Opened | Stop

# Retrieval → I/O -----------------------------------------------------------------------------------------------------


class FoundPassage(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that was chosen."""

    set: int
    """Place of its set in the lookup."""
    id: str
    text: str
    score: float


class Found(_Message, frozen=True, tag="found"):
    """The passages for the text, best first; none is an answer too."""

    id: str
    passages: list[FoundPassage]


class NotFound(_Message, frozen=True, tag="not_found"):
    """The lookup cannot be done."""

    id: str
    code: FailureCode
    message: str
    altered: str = ""
    """Digest of an artefact whose copy on this machine's disk is not what it was: fetched again, it may be done."""


FromRetrieval = Ready | Broken | Found | NotFound

TO_RETRIEVAL: Final[msgspec.msgpack.Decoder[ToRetrieval]] = msgspec.msgpack.Decoder(
    StartRetrieval | Lookup | Opened | Stop
)
FROM_RETRIEVAL: Final[msgspec.msgpack.Decoder[FromRetrieval]] = msgspec.msgpack.Decoder(
    Ready | Broken | Found | NotFound
)
