"""What every child process is told and tells: end, the model is loaded, it cannot be, one question is refused."""

from __future__ import annotations

from guideway.schemas.failures import FailureCode
from guideway.workers.messages.frames import Message


class Stop(Message, frozen=True, tag="stop"):
    """End the process."""


class Ready(Message, frozen=True, tag="ready"):
    """The model is loaded and work can come. Retrieval says it of its embedding model."""

    fingerprint: str
    load_s: float
    former_fingerprint: str = ""
    """As it was computed before decision 15, to tell who named it so."""


class Broken(Message, frozen=True, tag="broken"):
    """The model cannot be loaded; the process ends."""

    code: FailureCode
    message: str


class Refused(Message, frozen=True, tag="refused"):
    """A question cannot be answered: a request cannot be run, or not to its end; a lookup cannot be done."""

    id: str
    code: FailureCode
    message: str
    altered: str = ""
    """Digest of an artefact whose copy on this machine's disk is not what it was: fetched again, it may do."""
