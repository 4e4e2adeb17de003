"""Gateway → every gateway: a request was accepted and must be found again. Never content."""

from __future__ import annotations

from typing import Final

import msgspec

KEPT_S: Final = 24 * 3600
"""Seconds for which replies to gateways stay on their topic."""
PARTIAL_KEPT_S: Final = 600
"""Seconds for which text stays on its topic that was told while it was generated."""


class _Note(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, tag_field="schema"
):
    id: str
    """The request's id; one in its namespace, which is that of the topic."""
    at_ms: int
    """When this was written, Unix time in milliseconds."""


class Claim(_Note, frozen=True, kw_only=True, tag="guideway.claim.v1"):
    """Before the event: this gateway wants to publish it. Of several claims to one id the first in the topic counts."""

    address: str | None
    """`/NAMESPACE/NAME`; None: the router decides."""
    fingerprint: str
    """SHA-256 of what was asked: the same id with another is another request, and is refused."""
    correlation: str
    """The event's correlation id: nobody else can know it, so no other reply is taken for this one's."""
    after: str | None = None
    """The correlation id of the claim whose place this one takes, because nothing final came of that. It counts where
    that claim is the one that counted before."""


class Published(_Note, frozen=True, kw_only=True, tag="guideway.published.v1"):
    """After the event: brokers have it."""

    correlation: str


Accepted = Claim | Published
