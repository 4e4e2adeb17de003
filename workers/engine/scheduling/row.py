"""One sample of one request, from its admission to its text."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from guideway.schemas.generation import Generation
from guideway.schemas.output import Text
from guideway.schemas.request import Request
from guideway.workers.messages.from_engine import Branch, Generated, Logprobs, RowReport
from guideway.workers.messages.to_engine import Admit

if TYPE_CHECKING:
    from guideway.workers.engine.guidance.resident import RowGuidance
    from guideway.workers.engine.text.grammar import Grammar
    from guideway.workers.engine.text.sampling import Sampler


class SharedPrefix(NamedTuple):
    """The first tokens of a row, which other rows have as well."""

    key: bytes
    """Of all that their keys and values depend on, and of the namespace."""
    tokens: int
    """Prefixes, virtual tokens and text."""


class RowStatus(enum.Enum):
    """What a row is doing."""

    WAITING = "waiting"
    """It has no seat: it has just come, or it was preempted."""
    RUNNING = "running"
    """It was admitted: it has a seat in the micro-batch, or gets one before the next step."""
    ENDED = "ended"
    """It came to its end, or its request was refused. It never runs again."""


@dataclass(eq=False, kw_only=True, slots=True)
class Row:
    """A sample's whole life: it waits, is seated in the micro-batch, generates, ends. Written by the engine only."""

    admit: Admit
    sample: int
    """Number of the sample within its request, from 0."""
    status: RowStatus = RowStatus.WAITING
    """Written by `FairQueue` only."""
    prompt_ids: Sequence[int]
    """The text, in tokens; prefixes and then virtual tokens stand before them."""
    virtual_tokens: int
    """Of soft prompts."""
    prefix_tokens: int = 0
    """Positions that prefixes take: they are in the cache from the beginning and are not computed."""
    sampler: Sampler
    shared_prefixes: Sequence[SharedPrefix] = ()
    """Worth sharing; the shortest first."""

    guidance: RowGuidance | None = None
    """Held while seated only, so that waiting rows keep none in memory."""
    form: Grammar | None = None
    """The grammar of its text at its beginning; the samples of a request share it."""
    grammar: Grammar | None = None
    """From the first seat on: one that has to wait again goes on where it was."""

    token_ids: list[int] = field(default_factory=list)
    """Generated so far; the token that ends a text is not among them."""
    cached_tokens: int = 0
    """Positions whose keys and values are in the cache."""
    logprobs: Logprobs | None = None
    """Of the tokens generated so far, where that is asked."""
    partings: list[list[Branch]] = field(default_factory=list)
    """Where its labels parted so far, where that is asked."""
    generated: Generated | None = None
    """Set once, when the row ends."""
    preempted: int = 0
    """How often it gave up its seat and waited again."""

    @property
    def id(self) -> str:
        """Of the request's attempt; the rows of its samples share it."""
        return self.admit.id

    @property
    def request(self) -> Request:
        return self.admit.request

    @property
    def namespace(self) -> str:
        return self.admit.request.namespace

    @property
    def lane(self) -> str:
        return self.admit.lane

    @property
    def generation(self) -> Generation:
        return self.admit.request.generation

    @property
    def prompt_tokens(self) -> int:
        """Prefixes, virtual tokens and text."""
        return self.prefix_tokens + self.virtual_tokens + len(self.prompt_ids)

    @property
    def total_tokens(self) -> int:
        """The prompt and what has been generated."""
        return self.prompt_tokens + len(self.token_ids)

    @property
    def most_left(self) -> int:
        """Tokens that it may still generate; at least one until it ends."""
        return self.generation.max_tokens - len(self.token_ids)

    @property
    def missing_tokens(self) -> int:
        """How many the model has to take in before it gives the next one: the prompt's at first, then one at a time."""
        return self.total_tokens - self.cached_tokens

    @property
    def decodes(self) -> bool:
        """Whether only the last token is missing."""
        return self.missing_tokens == 1 and bool(self.prompt_ids or self.token_ids)

    @property
    def last_id(self) -> int:
        return self.token_ids[-1] if self.token_ids else self.prompt_ids[-1]

    def ids_between(self, start: int, stop: int) -> list[int]:
        """The token ids at positions `start` up to, not including, `stop`; prefixes and virtual tokens have none."""
        before = self.prefix_tokens + self.virtual_tokens
        start, stop = max(0, start - before), max(0, stop - before)
        prompt = len(self.prompt_ids)
        return [*self.prompt_ids[start:stop], *self.token_ids[max(0, start - prompt) : max(0, stop - prompt)]]

    def is_late(self, now: float) -> bool:
        """Whether nobody waits for the result any more at `now` (Unix time in seconds)."""
        return is_late(self.request, now)

    def report(self) -> RowReport:
        """What is at work on the row, without its text."""
        guidance = [f"{artefact.form} {artefact.name}" for artefact in self.admit.artefacts]
        passages = [part.source for part in self.request.parts if part.kind == "context" and "#" in part.source]
        guidance += dict.fromkeys(f"set {source.partition('#')[0]}" for source in passages)
        if any(part.kind == "instruction" for part in self.request.parts):
            guidance.append("text_prompt")
        if not isinstance(self.request.output, Text):
            guidance.append(f"grammar {self.request.output.__struct_config__.tag}")
        return RowReport(
            request_id=self.request.id,
            namespace=self.namespace,
            endpoint=self.request.endpoint,
            guidance=guidance,
        )


def is_late(request: Request, now: float) -> bool:
    """Whether nobody waits for the result any more at `now` (Unix time in seconds)."""
    return request.deadline_ms is not None and now * 1000 > request.deadline_ms
