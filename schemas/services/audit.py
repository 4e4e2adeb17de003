"""Our services → people and tools: who did what, and who was refused what. Never content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.failures import FailureCode

Action = Literal["refused", "applied", "published", "promoted", "rolled back", "granted", "deleted"]
"""`published`: guidance, a set, or which version of a set counts. `promoted`: a shadow put an endpoint's candidate in
its place, as the program says that wrote it. `rolled back`: an endpoint is again what it was in a version before the
last. `granted`: others may use or call what they could not before, or somebody was given a key of that namespace at
gateways. `deleted`: a manifest; or a key, which does not count any more."""


class Audited(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.audited.v1",
):
    """One thing that happened, or several that are alike."""

    at_ms: int
    """When it happened, or the first of those that are alike; Unix time in milliseconds."""
    service: Literal["endpoints", "worker", "trainer", "steward"]
    """Which of our services writes this."""
    action: Action
    namespace: str
    """Who: the namespace of the topic that was written to. In a request that somebody forged it is what that claims."""
    principal: str | None = None
    """Who, by the cluster's own name, where Kafka tells: whoever may write that topic, several with commas."""
    what: str
    """What it was done to: `/NAMESPACE/ENDPOINT`, `KIND NAMESPACE/NAME@VERSION`, or `key NAMESPACE/ID`; empty where
    nothing was named."""
    to: Sequence[str] = ()
    """Namespaces that it was granted to; `*`: everybody."""
    code: FailureCode | None = None
    """Why it was refused."""
    topic: str
    """Where the record stands, or the first of those that are alike."""
    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1)] = 1
    """How many are alike: of one service process, namespace, thing and code, in about a minute."""
