"""Worker or endpoint service → caller: exactly one per request."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import msgspec

from guideway.schemas.calibration import CalibratedBy
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import Citation

FinishReason = Literal["stop", "length"]
"""`stop`: the form was complete, the model ended, or a stop string came; `length`: `max_tokens` was reached."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One generated result."""

    value: Any
    """The typed result, as the endpoint's output rule says."""
    text: str
    """The text it was read from."""
    finish_reason: FinishReason


class FailedSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sample that is no result, though others of the same reply are."""

    sample: int
    """Which of those that were asked for, from 0."""
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
    """Those that are whole, in the order in which they were asked for; at least one."""
    usage: Usage
    guidance: list[str]
    """What guided the model: `NAMESPACE/NAME@VERSION`."""
    model_fingerprint: str
    calibration: CalibratedBy | None = None
    """From what the labels' bias was known that was taken off; None where none was."""
    citations: list[Citation] | None = None
    """The passages in the text, in their order; empty where none was found, None where no set was asked."""
    failed_samples: list[FailedSample] | None = None
    """The others, where several were asked for and not all of them are whole."""

    @property
    def value(self) -> Any:
        """The value of the first whole sample: the only one unless several were asked for."""
        return self.samples[0].value


class Failed(_Reply, frozen=True, kw_only=True, tag="guideway.reply.failed.v1"):
    """There is no result, and why."""

    code: FailureCode
    message: str
    """What to change, for a person."""
    retryable: bool

    @property
    def value(self) -> NoReturn:
        """There is none. Raises Refusal with the reply's code and message."""
        raise Refusal(self.code, self.message)

    # What else a caller would look for in a result tells why there is none, instead of `has no attribute`.
    samples = usage = citations = value

    def __str__(self) -> str:
        return f"no result of /{self.namespace}/{self.endpoint} ({self.code}: {self.message})"


Reply = Completed | Failed
