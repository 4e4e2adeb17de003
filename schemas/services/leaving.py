"""What leaves Kafka: worker or endpoint service → `guideway targets`, and what that notes for itself."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from guideway.schemas.reply import Completed, Failed

DELAYS_S: Final = (0.0, 5.0, 60.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 86_400.0)
"""How long deliveries wait in each partition of their topic. What waits equally long is due in the order in which it
stands there, so that nothing that is due stands behind what is not."""


class Result(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.result.v1",
):
    """A copy of a reply of an endpoint that has webhooks or an archive, published in the reply's own transaction."""

    reply: Completed | Failed | None
    """None: it is too large to be copied with what stands beside it; `id` and `endpoint` say whose it is."""
    id: str
    """The request's id."""
    endpoint: str
    """The name of the endpoint, of the topic's namespace."""
    endpoint_version: Annotated[int, Meta(ge=1)]
    completed: bool
    text: str | None = None
    """The text, where the endpoint archives it and it fits."""


class Delivery(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.delivery.v1",
):
    """A payload for a webhook, on its way."""

    webhook: str
    """Its name, in the topic's namespace."""
    id: Annotated[str, Meta(pattern=r"^msg_[0-9a-f]{32}\Z")]
    """The same over all attempts: by it the receiver knows a repetition."""
    since_ms: int
    """When the reply was published (Unix time in milliseconds)."""
    payload: str
    """The body, JSON."""
    attempts: Annotated[int, Meta(ge=0)] = 0
    """How many have failed."""
    waits: Annotated[int, Meta(ge=0)] = 0
    """How often in a row it was put off without an attempt, because the webhook had enough in hand."""
    due_ms: int = 0
    """Not to be attempted before."""


class Held(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.held-webhook.v1",
):
    """A version of a webhook whose receiver answered 410: it wants nothing more. The key is `NAMESPACE/NAME`."""

    version: int
    """Of the manifest; a later one is tried again."""
    since_ms: int
