"""One sample of one request, from its admission to its text."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from guideway.schemas.generation import Generation
from guideway.schemas.output import Text
from guideway.schemas.request import Request
from guideway.workers.messages.from_engine import Branch, Generated, Logprobs, RowReport
from guideway.workers.messages.to_engine import Admit

if TYPE_CHECKING:
    from guideway.workers.engine.guidance.resident import RowGuidance
    from guideway.workers.engine.likelihood.label_walk import LabelWalk
    from guideway.workers.engine.text.grammar import Grammar
    from guideway.workers.engine.text.sampling import Sampler


_AT_ONCE: Final = 64
"""A row that got more tokens at once waits with them for its turn, as with a prompt."""


class SharedPrefix(NamedTuple):
    """The first tokens of a row, if other rows may have the same."""

    key: bytes
    """A hash of all that their keys and values depend on, and of the namespace."""
    tokens: int
    """How many they are: trained prefixes, virtual tokens and text."""


class Told(NamedTuple):
    """How probable a generated token was: natural logarithms, among all tokens."""

    logprob: float
    top: list[tuple[int, float]]
    """The likeliest tokens in its place, and theirs."""


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
    """The tokens of the text; trained prefixes and then virtual tokens stand before them."""
    virtual_tokens: int
    """Number of the soft prompts' virtual tokens."""
    prefix_tokens: int = 0
    """Number of the trained prefixes' positions. Their keys and values are put into the cache and not computed."""
    sampler: Sampler
    shared_prefixes: Sequence[SharedPrefix] = ()
    """The prefixes that are worth sharing; the shortest comes first."""

    guidance: RowGuidance | None = None
    """Held only while the row is seated, so that waiting rows keep no guidance in memory."""
    form: Grammar | None = None
    """The grammar at the beginning of a text, which the samples of a request share; None for free text."""
    grammar: Grammar | None = None
    """The row's own place in its grammar. The row has it from its first seat on, also while it waits again."""

    token_ids: list[int] = field(default_factory=list)
    """Generated so far; the token that ends a text is not among them."""
    draft: Sequence[int] = ()
    """The tokens that probably come next. The next step takes them in together with what is missing, if it can, and the
    row gets those of them that are chosen."""
    cached_tokens: int = 0
    """How many of its first positions have their keys and values in the cache."""
    seated_tokens: int = 0
    """How many it had there when it was seated: those of its prefixes that were known. It takes in all others."""
    logprobs: Logprobs | None = None
    """Those of the tokens generated so far, if the request asks for them."""
    partings: list[list[Branch]] = field(default_factory=list)
    """The places where its labels parted so far, if the request asks for them."""
    told: list[Told] = field(default_factory=list)
    """Of each token generated so far and of the end token, if the endpoint tells log-probabilities."""
    walk: LabelWalk | None = None
    """Its way through the labels, if the endpoint tells their probabilities."""
    taken_back: int = 0
    """How many tokens it has generated and taken back on that way."""
    generated: Generated | None = None
    """The result. Set once, before the row ends; None for the rows of a request that is refused."""
    preempted: int = 0
    """How often it gave up its seat and waited again."""

    @property
    def id(self) -> str:
        """The id of the request's attempt, which all its samples share."""
        return self.admit.id

    @property
    def request(self) -> Request:
        """The request whose sample this is."""
        return self.admit.request

    @property
    def namespace(self) -> str:
        """The namespace that sent the request: shares and limits go by it."""
        return self.admit.request.calling_namespace

    @property
    def weight(self) -> float:
        """The weight of its namespace in the fair share."""
        return self.admit.weight

    @property
    def lane(self) -> str:
        """`interactive` or `batch`."""
        return self.admit.lane

    @property
    def generation(self) -> Generation:
        """The request's generation parameters."""
        return self.admit.request.generation

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens before the generated ones: trained prefixes, virtual tokens and text."""
        return self.prefix_tokens + self.virtual_tokens + len(self.prompt_ids)

    @property
    def total_tokens(self) -> int:
        """Number of tokens of the prompt and generated so far."""
        return self.prompt_tokens + len(self.token_ids)

    @property
    def room_tokens(self) -> int:
        """Number of tokens that the cache has room for while it runs: its own, its draft's, and the next one. What it
        took back counts no more.
        """
        return self.total_tokens + len(self.draft) + 1

    @property
    def run_tokens(self) -> int:
        """Number of tokens generated so far, those that it took back as well."""
        return self.taken_back + len(self.token_ids)

    @property
    def most_left(self) -> int:
        """How many tokens it may still generate; at least one until it ends."""
        return self.generation.max_tokens - len(self.token_ids)

    @property
    def missing_tokens(self) -> int:
        """How many tokens the model takes in before it gives the next one: first the prompt's, then one at a time."""
        return self.total_tokens - self.cached_tokens

    @property
    def decodes(self) -> bool:
        """Whether only the last token is missing, and it is no virtual token."""
        return self.missing_tokens == 1 and bool(self.prompt_ids or self.token_ids)

    @property
    def goes_on(self) -> bool:
        """Whether it is past its prompt and misses a few tokens, which it got all at once: the next step takes in one
        of them at least, and as many as others need not wait for.
        """
        return 1 < self.missing_tokens <= _AT_ONCE and self.cached_tokens >= self.prompt_tokens

    def generates(self) -> bool:
        """Whether the next step brings it on in its text, and not in its prompt."""
        return self.decodes or self.goes_on

    @property
    def last_id(self) -> int:
        """The id of the last token, generated or of the text."""
        return self.token_ids[-1] if self.token_ids else self.prompt_ids[-1]

    def ids_between(self, start: int, stop: int) -> list[int]:
        """The token ids at positions `start` up to, not including, `stop`, the draft's as well; prefixes and virtual
        tokens have none."""
        before = self.prefix_tokens + self.virtual_tokens
        start, stop = max(0, start - before), max(0, stop - before)
        prompt = len(self.prompt_ids)
        start_own, stop_own = max(0, start - prompt), max(0, stop - prompt)
        own = self.token_ids[start_own:stop_own]
        if stop_own > (known := len(self.token_ids)):
            own = [*own, *self.draft[max(0, start_own - known) : stop_own - known]]
        return [*self.prompt_ids[start:stop], *own]

    def is_late(self, now: float) -> bool:
        """Whether the request's deadline has passed at `now` (Unix time in seconds)."""
        return is_late(self.request, now)

    def report(self) -> RowReport:
        """What acts on the row (guidance, retrieval sets, text prompt, grammar), without its text."""
        guidance = [f"{artefact.form} {artefact.name}" for artefact in self.admit.artefacts]
        passages = [part.source for part in self.request.parts if part.kind == "context" and "#" in part.source]
        guidance += dict.fromkeys(f"set {source.partition('#')[0]}" for source in passages)
        if any(part.kind == "instruction" for part in self.request.parts):
            guidance.append("text_prompt")
        if not isinstance(self.request.output, Text):
            guidance.append(f"grammar {self.request.output.__struct_config__.tag}")
        return RowReport(
            request_id=self.request.id,
            namespace=self.request.namespace,
            endpoint=self.request.endpoint,
            guidance=guidance,
        )


def is_late(request: Request, now: float) -> bool:
    """Whether the request's deadline has passed at `now` (Unix time in seconds)."""
    return request.deadline_ms is not None and now * 1000 > request.deadline_ms
