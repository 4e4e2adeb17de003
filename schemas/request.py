"""Endpoint service → worker: one marshalled request, complete in itself."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.calibration import CalibratedBy
from guideway.schemas.generation import Generation
from guideway.schemas.input import MAX_MESSAGE_CHARS
from guideway.schemas.names.addresses import NAME
from guideway.schemas.output import OutputRule
from guideway.schemas.retrieval import Retrieval

MAX_SCALE: Final = 8
MAX_GUIDANCE: Final = 16
"""The most guidance of one request: the endpoint's and the event's together, each once, text prompts included."""
FIRST_DEADLINE_MS: Final = 10**11
LAST_DEADLINE_MS: Final = 10**14 - 1
"""Deadlines lie between the years 1973 and 5138: what is later is as late, and counts as that."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One delimited piece of the final text, and its source.

    Order in the text: prefixes and then soft prompts of the guidance (virtual tokens, not here), then `instruction`
    parts, `context` parts, and last the `input`.
    """

    kind: Literal["instruction", "context", "input"]
    source: str
    """`endpoint`, `caller`, or guidance as `NAMESPACE/NAME@VERSION`; for a passage with `#ID` after it."""
    text: str


class GuidanceRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Guidance by name and version: never tensors."""

    namespace: str
    name: str
    version: Annotated[int, Meta(ge=1)]
    scale: Annotated[float, Meta(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0
    """Factor on the effect of a LoRA; 1 for all other guidance."""

    def __str__(self) -> str:
        """`NAMESPACE/NAME@VERSION`, with `*SCALE` after it if the scale is not 1."""
        name = f"{self.namespace}/{self.name}@{self.version}"
        return name if self.scale == 1 else f"{name}*{self.scale}"


class ReplyAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Where a reply goes."""

    topic: str
    partition: Annotated[int, Meta(ge=0)] | None = None


class Request(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.request.v1",
):
    """All that a worker needs for one request. The caller's key and correlation headers travel beside it."""

    id: str
    namespace: str
    """The endpoint's owner."""
    endpoint: str
    endpoint_version: int
    parts: list[Part]
    guidance: list[GuidanceRef]
    """Soft prompts and adaptor weights in the order in which they apply."""
    output: OutputRule
    words: list[str]
    """The words to label, for output rule `word_labels`; else empty."""
    generation: Generation
    reply_to: Annotated[list[ReplyAddress], Meta(min_length=1)]
    deadline_ms: int | None
    """Unix time in milliseconds; after it the request is answered `deadline_exceeded`."""
    calibration: CalibratedBy | None = None
    """How this version of the endpoint calibrates its labels; the worker finds or makes the biases."""
    retrieval: Retrieval | None = None
    """Passages that the worker looks up and puts into the text as `context` parts."""
    caller: Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")] | None = None
    """The namespace that called the endpoint; None where it is the endpoint's own."""
    partial: bool = False
    """Whether the text is told piece by piece, on the topic beside the first of `reply_to`."""

    reply_message: Annotated[str, Meta(max_length=MAX_MESSAGE_CHARS)] | None = None
    """The Protobuf message that the caller's reply is: ours, or the endpoint's own; None: JSON."""

    @property
    def calling_namespace(self) -> str:
        """Whose request it is: its shares, limits, cancellations and reply addresses are those of this namespace."""
        return self.namespace if self.caller is None else self.caller
