"""Endpoint service ↔ workers: which endpoint an event that names none is for."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.failures import FailureCode
from guideway.schemas.names.addresses import NAME


class RoutingQuestion(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="schema", tag="guideway.routing.v1"
):
    """Asks a worker to which endpoint a text belongs. Whoever asks waits for the answer; nothing else hangs on it."""

    id: str
    """Of this question; nobody else knows it."""
    namespace: Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")]
    """The namespace whose router decides."""
    router_version: Annotated[int, Meta(ge=1)]
    text: str
    """What the router looks at, cut to its `max_text_chars`."""
    deadline_ms: int
    """Unix time in milliseconds; after it nobody waits any more, and the worker says nothing."""


class Considered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How near one method came to one endpoint."""

    method: Literal["examples", "model"]
    endpoint: str
    """`/NAMESPACE/NAME`; empty: none of the endpoints."""
    score: float


class RoutingFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a worker could not decide."""

    code: FailureCode
    message: str


class RoutingAnswer(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.routed.v1",
):
    """What a worker says to a question."""

    id: str
    """Of the question."""
    endpoint: str = ""
    """`/NAMESPACE/NAME`; empty: the router chooses none."""
    considered: list[Considered] = []
    """The best of each method, best first."""
    failure: RoutingFailure | None = None
