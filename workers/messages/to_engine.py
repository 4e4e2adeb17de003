"""I/O process → engine process."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.schemas.manifests import Model, TrainedForm
from guideway.schemas.names.topics import Lane
from guideway.schemas.request import Request
from guideway.workers.messages.every_child import Stop
from guideway.workers.messages.frames import Message


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the engine; every one of them is a limit on memory or on time."""

    max_rows: int = 16
    """Rows in one micro-batch."""
    max_step_tokens: int = 512
    """Tokens that one step takes in: one for each row that decodes, the rest for pieces of prompts.
    A longer prompt is taken in by several steps, between which the other rows go on."""
    kv_bytes: int = 2 * 2**30
    """Keys and values of the rows that run. Where their texts get long, fewer rows run at once; no text can be longer
    than what fits alone."""
    guidance_bytes: int = 512 * 2**20
    """Trained guidance kept in memory, least recently used out first."""
    prefix_cache_bytes: int = 256 * 2**20
    """Keys and values kept of what prompts begin with, for rows that begin alike; 0 keeps none."""
    reader_threads: int = 1
    """Read guidance into memory while the rows that are there run on; 0 lets them wait for it."""
    preparer_threads: int = 2
    """Tokenise texts and compile grammars while the rows that are there run on; 0 lets them wait for it. With two, what
    takes long is its own namespace's affair."""
    threads: int = 0
    """Torch threads; 0 leaves torch's choice."""
    device: str = "cpu"
    model_cache: str = ".guideway/models"
    """Folder for converted models."""


class Start(Message, frozen=True, tag="start"):
    """The first message."""

    model: Model
    settings: EngineSettings


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """One trained guidance of a request, fetched, checked and on this machine's disk."""

    name: str
    """`NAMESPACE/NAME@VERSION`, with `*SCALE` after it where that is not 1"""
    form: TrainedForm
    digest: str
    """The key under which the engine keeps it."""
    folder: str
    by_content: bool = False
    """Whether the digest is that of the folder's bytes, as of all that was published: they are hashed when it is
    loaded."""
    scale: float = 1.0
    """How many times the effect, of a LoRA."""


class Admit(Message, frozen=True, tag="admit"):
    """Run this request. It ends in exactly one `Finished` or `Refused`."""

    id: str
    """Of this attempt; chosen by the I/O process, opaque to the engine."""
    request: Request
    artefacts: list[Artefact]
    lane: Lane = "interactive"
    """Of the topic that it came by."""
    weight: float = 1.0
    """Of the calling namespace, in the fair share."""
    most_rows: int | None = None
    """How many rows of the calling namespace may run at once; None: as many as there are seats."""
    logprobs: bool = False
    """Whether to tell how likely the text was."""
    biases: dict[str, float] = msgspec.field(default_factory=dict)
    """Label → what is added to its log-likelihood; all labels of the output rule, or none."""
    partings: bool = False
    """Whether to tell how likely each label was wherever the text could have become another one."""
    partial: bool = False
    """Whether to tell the texts in `Pieces` while they are made."""


class Cancel(Message, frozen=True, tag="cancel"):
    """Nobody waits for this one any more: end it as `cancelled` as soon as a step allows."""

    id: str


ToEngine = Start | Admit | Cancel | Stop
TO_ENGINE: Final[msgspec.msgpack.Decoder[ToEngine]] = msgspec.msgpack.Decoder(Start | Admit | Cancel | Stop)
