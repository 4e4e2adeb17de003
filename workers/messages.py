"""I/O process ↔ engine process: one union a direction, msgpack in frames of a 4-byte big-endian length."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Model, TrainedForm
from guideway.schemas.names import Lane
from guideway.schemas.reply import FinishReason
from guideway.schemas.request import Request


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


# I/O → engine --------------------------------------------------------------------------------------------------------


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the engine; every one of them is a limit on memory or on time."""

    max_rows: int = 16
    """Rows in one micro-batch."""
    max_step_tokens: int = 512
    """Tokens that one step takes in: one for each row that decodes, the rest for pieces of prompts, padding included.
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


class Start(_Message, frozen=True, tag="start"):
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


class Admit(_Message, frozen=True, tag="admit"):
    """Run this request. It ends in exactly one `Finished` or `Refused`."""

    id: str
    """Of this attempt; chosen by the I/O process, opaque to the engine."""
    request: Request
    artefacts: list[Artefact]
    lane: Lane = "interactive"
    """Of the topic that it came by."""
    logprobs: bool = False
    """Whether to tell how likely the text was."""
    biases: dict[str, float] = {}
    """Label → what is added to its log-likelihood; all labels of the output rule, or none."""
    partings: bool = False
    """Whether to tell how likely each label was wherever the text could have become another one."""


class Cancel(_Message, frozen=True, tag="cancel"):
    """Nobody waits for this one any more: end it as `cancelled` as soon as a step allows."""

    id: str


class Stop(_Message, frozen=True, tag="stop"):
    """End the process."""


ToEngine = Start | Admit | Cancel | Stop

# Engine → I/O --------------------------------------------------------------------------------------------------------


class Ready(_Message, frozen=True, tag="ready"):
    """The model is loaded and work can come. Retrieval says it of its embedding model."""

    fingerprint: str
    load_s: float
    former_fingerprint: str = ""
    """As it was computed before decision 15, to tell who named it so."""


class Broken(_Message, frozen=True, tag="broken"):
    """The model cannot be loaded; the process ends."""

    code: FailureCode
    message: str


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Natural logarithms of the probability of a text's tokens, with its end token if it has one, at temperature 1."""

    free: float
    """Among all that the model could have written."""
    allowed: float
    """Among what the row's grammar allowed; where the grammar left no choice, 0."""
    first: dict[int, float] = {}
    """Each token that the grammar allowed as the first → its share of the probability of these, where they are few."""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """One way on where labels part."""

    labels: list[str]
    """All that it leads to."""
    log_share: float
    """Natural logarithm of its probability among the ways on, biases not counted."""


class SampleFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a sample is no result."""

    code: FailureCode
    message: str


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """One sample's text."""

    text: str
    finish_reason: FinishReason
    failure: SampleFailure | None = None
    """None where the text is a whole word of the row's grammar that was not cut; always so without a grammar."""
    logprobs: Logprobs | None = None
    """Where the request was admitted with it."""
    partings: list[list[Branch]] = []
    """Where labels parted, in their order, where the request was admitted with it: of each place the ways on."""


class Finished(_Message, frozen=True, tag="finished"):
    """A request ran to its end."""

    id: str
    samples: list[Generated]
    """As many as were asked for, in their order."""
    prompt_tokens: int
    output_tokens: int


class Refused(_Message, frozen=True, tag="refused"):
    """A request cannot be run, or not to its end."""

    id: str
    code: FailureCode
    message: str
    altered: str = ""
    """Digest of an artefact whose copy on this machine's disk is not what it was: fetched again, it may run."""


class RowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a micro-batch, without its text."""

    request_id: str
    namespace: str
    endpoint: str
    guidance: list[str]
    """What is at work on the row: `soft_prompt a/b@1`, `lora c/d@2*0.5`, `text_prompt`, `grammar choice`, ..."""


class BatchReport(_Message, frozen=True, tag="batch"):
    """A micro-batch whose members changed since the step before."""

    step: int
    rows: list[RowReport]


class Progress(_Message, frozen=True, tag="progress"):
    """Sent about once a second while rows run, and whenever the engine goes idle."""

    step: int
    running: int
    waiting: int
    output_tokens: int
    """Since the start."""
    busy_s: float
    """Time spent in steps since the start."""
    reused_tokens: int = 0
    """Prompt tokens since the start that were not computed, for their keys and values were there."""
    preempted: int = 0
    """How often since the start a row had to wait again: those that ran had grown, or others waited for its seat."""


FromEngine = Ready | Broken | Finished | Refused | BatchReport | Progress

_LENGTH: Final = struct.Struct(">I")
MAX_FRAME_BYTES: Final = 64 * 2**20

TO_ENGINE: Final[msgspec.msgpack.Decoder[ToEngine]] = msgspec.msgpack.Decoder(Start | Admit | Cancel | Stop)
FROM_ENGINE: Final[msgspec.msgpack.Decoder[FromEngine]] = msgspec.msgpack.Decoder(
    Ready | Broken | Finished | Refused | BatchReport | Progress
)
_ENCODER: Final = msgspec.msgpack.Encoder()
HEADER_BYTES: Final = _LENGTH.size


def frame(message: msgspec.Struct) -> bytes:
    """The message with its length before it."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """Length of the body that follows a frame's header."""
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"frame of {length} bytes: the two processes are out of step")
    return int(length)
