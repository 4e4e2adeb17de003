"""I/O process → retrieval process."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import Retrieval
from guideway.workers.messages.every_child import Stop
from guideway.workers.messages.frames import Message
from guideway.workers.retrieval.settings import RetrievalSettings


class StartRetrieval(Message, frozen=True, tag="start"):
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

    @property
    def key(self) -> str:
        """`OWNER/sha256:HEX`: an index belongs to a namespace, also where another one has the same passages."""
        return index_key(self.name.partition("/")[0], self.digest)


def index_key(owner: str, digest: str) -> str:
    """What the index of an artefact is kept by."""
    return f"{owner}/{digest}"


class Lookup(Message, frozen=True, tag="lookup"):
    """Find passages for one request. It ends in exactly one `Found` or `Refused`."""

    id: str
    """Chosen by the I/O process, opaque to the other."""
    wanted: Retrieval
    artefacts: list[SetArtefact]
    """In the order of `wanted.sets`."""


class Embed(Message, frozen=True, tag="embed"):
    """Embed these texts. It ends in exactly one `Embedded` or `Refused`."""

    id: str
    """Chosen by the I/O process, opaque to the other."""
    texts: list[str]
    """Few at a time: lookups wait while they are embedded."""


class Opened(Message, frozen=True, tag="opened"):
    """From within the process: an index has been opened, or could not be."""


ToRetrieval = StartRetrieval | Lookup | Embed | Opened | Stop
TO_RETRIEVAL: Final[msgspec.msgpack.Decoder[ToRetrieval]] = msgspec.msgpack.Decoder(
    StartRetrieval | Lookup | Embed | Opened | Stop
)
