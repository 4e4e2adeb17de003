"""Worker or endpoint service → caller: exactly one per request."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import msgspec

from guideway.schemas.calibration import CalibratedBy
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.partial import Streamed
from guideway.schemas.retrieval import Citation

FinishReason = Literal["stop", "length"]
"""`stop`: the result was complete, the model ended, or a stop string came; `length`: `max_tokens` was reached."""


class Alternative(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token that the model could have written."""

    text: str
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A token of the text, and how probable it was.

    Log-probabilities are natural logarithms, of the model under its guidance, among all tokens, at temperature 1.
    """

    text: str
    """Its part of the text; all parts together are the text. A character of several tokens is part of the last one."""
    logprob: float
    top: list[Alternative] = []
    """The likeliest tokens in its place, as many as the endpoint asks for, the likeliest first."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One generated result."""

    value: Any
    """The typed result, as the endpoint's output rule says; null also for a doubtful value, where the rule says so."""
    text: str
    """The text it was read from."""
    finish_reason: FinishReason
    probabilities: dict[str, float] | None = None
    """Each label → its probability, the most probable first; their sum is 1. Where the endpoint asks for them."""
    doubtful: bool = False
    """Whether the label in `text` is less probable than the endpoint's `min_confidence`."""
    logprobs: list[TokenLogprob] | None = None
    """The tokens of the text, where the endpoint asks for their log-probabilities."""


class FailedSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sample without a result, in a reply that has others with one."""

    sample: int
    """The number of the sample, from 0."""
    code: FailureCode
    message: str
    """What to change, for a person."""


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tokens; virtual tokens of soft prompts count as prompt."""

    prompt_tokens: int
    output_tokens: int


class _Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="schema"):
    id: str
    """The request's id: the caller's own, where it gave one."""
    namespace: str
    endpoint: str


class Completed(_Reply, frozen=True, omit_defaults=True, kw_only=True, tag="guideway.reply.completed.v1"):
    """The result."""

    endpoint_version: int
    samples: list[Sample]
    """The complete samples in order of their number; at least one."""
    usage: Usage
    guidance: list[str]
    """The guidance that acted: `NAMESPACE/NAME@VERSION`."""
    model_fingerprint: str
    calibration: CalibratedBy | None = None
    """How the labels were calibrated; None if they were not."""
    citations: list[Citation] | None = None
    """The passages in the text, in their order; empty if none was found, None if no set was searched."""
    failed_samples: list[FailedSample] | None = None
    """The samples that are not complete; None if all are."""
    partials: Streamed | None = None
    """How many pieces were told of the texts; None where the event did not ask for them."""

    @property
    def value(self) -> Any:
        """The value of the first complete sample."""
        return self.samples[0].value


class Failed(_Reply, frozen=True, kw_only=True, tag="guideway.reply.failed.v1"):
    """Why there is no result."""

    code: FailureCode
    message: str
    """What to change, for a person."""
    retryable: bool

    @property
    def value(self) -> NoReturn:
        """There is none. Raises Refusal with the reply's code and message."""
        raise Refusal(self.code, self.message)

    # The fields of `Completed` raise the reason as well, instead of `has no attribute`.
    samples = usage = citations = value

    def __str__(self) -> str:
        return f"no result of /{self.namespace}/{self.endpoint} ({self.code}: {self.message})"


Reply = Completed | Failed
