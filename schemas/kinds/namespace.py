"""The limits of a namespace. The platform writes them; they count in the public catalogue only."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from guideway.schemas.kinds.manifest import Manifested
from guideway.schemas.names.addresses import RESERVED_NAMESPACES

MAX_LIMIT: Final = 10**15
_Count = Annotated[int, Meta(ge=0, le=MAX_LIMIT)]
_AtLeastOne = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]


class Namespace(Manifested, frozen=True, kw_only=True, tag="namespace/v1"):
    """What one namespace may use. It belongs to `public`, the platform; `name` is the namespace that it is about."""

    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Its part of the fair share: a namespace of weight 2 has twice the tokens of one of weight 1 while both wait."""
    tokens_per_minute: _AtLeastOne | None = None
    """Tokens taken in and generated in any minute. The intake estimates them, because nobody knows them beforehand."""
    requests_per_minute: _AtLeastOne | None = None
    """Requests in any minute."""
    rows: _AtLeastOne | None = None
    """Rows at once in the micro-batch of each worker."""
    waiting: _AtLeastOne | None = None
    """Requests that are published to workers and unanswered."""
    max_tokens: _AtLeastOne | None = None
    """The longest output of one sample, in tokens: `max_tokens` of its endpoints' `generation` and `request_generation`
    may be no larger."""
    endpoints: _Count | None = None
    """Endpoints of the namespace."""
    partitions: _Count | None = None
    """Partitions of all its endpoints, and of the targets that are no endpoints: the sum of their `partitions`, twice
    where an endpoint has `partial: true`. Each brings several topics with so many."""
    reply_addresses: _Count | None = None
    """Reply topics, beside those of its endpoints, that its callers may use at a time."""
    cancellations_per_minute: _AtLeastOne | None = None
    """Cancellations in any minute. Those beyond it wait."""
    inflated_bytes: _AtLeastOne | None = None
    """What a compressed batch of its events may hold, in bytes; 64 MiB for all, and here less."""
    store_bytes: _Count | None = None
    """Bytes of its artefacts in the store, each counted once."""
    over_limit: Literal["wait", "refuse"] = "wait"
    """Beyond a limit of requests, tokens or waiting work: events wait in their topic, or are refused with
    `quota_exceeded`, which says how long to wait."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.namespace != "public":
            raise ValueError(
                "the limits of a namespace belong to the platform: write `namespace: public`, and the namespace that "
                "they are about as `name`"
            )
        if self.name in RESERVED_NAMESPACES:
            raise ValueError(f"namespace {self.name!r} is reserved: limits are of another")
