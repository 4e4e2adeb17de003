"""Engine process → I/O process."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import FinishReason
from guideway.workers.messages.every_child import Broken, Ready, Refused
from guideway.workers.messages.frames import Message


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


class TextToken(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A token of a text, and how probable it was: natural logarithms, among all tokens, at temperature 1."""

    text: str
    """Its part of the text."""
    logprob: float
    top: list[tuple[str, float]]
    """The likeliest tokens in its place, and theirs."""


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
    probabilities: dict[str, float] | None = None
    """Each label → its probability, the most probable first, where the output rule asks for them."""
    tokens: list[TextToken] | None = None
    """Of free text, where the output rule asks for log-probabilities."""


class Finished(Message, frozen=True, tag="finished"):
    """A request ran to its end."""

    id: str
    samples: list[Generated]
    """As many as were asked for, in their order."""
    prompt_tokens: int
    output_tokens: int


class RowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a micro-batch, without its text."""

    request_id: str
    namespace: str
    endpoint: str
    guidance: list[str]
    """What is at work on the row: `soft_prompt a/b@1`, `lora c/d@2*0.5`, `text_prompt`, `grammar choice`, ..."""


class BatchReport(Message, frozen=True, tag="batch"):
    """A micro-batch whose members changed since the step before."""

    step: int
    rows: list[RowReport]


class Progress(Message, frozen=True, tag="progress"):
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
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    """Calling namespace → how many rows of it run."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What has come to one sample's text."""

    id: str
    """Of the request's attempt."""
    sample: int
    text: str | None
    """None: the pieces before are not the beginning of the text as it ended."""


class Pieces(Message, frozen=True, tag="pieces"):
    """Of all rows that stream what has come in one step; what a request's last step brings comes before `Finished`."""

    pieces: list[Piece]


FromEngine = Ready | Broken | Finished | Refused | BatchReport | Progress | Pieces
FROM_ENGINE: Final[msgspec.msgpack.Decoder[FromEngine]] = msgspec.msgpack.Decoder(
    Ready | Broken | Finished | Refused | BatchReport | Progress | Pieces
)
