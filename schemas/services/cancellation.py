"""Endpoint service → every worker of a model size: a caller wants no result of a request any more."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME

HELD_S: Final = 3600
"""Seconds for which a cancellation holds after it was published; its topic keeps it as long."""


class Cancellation(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.cancellation.v1",
):
    """The request to end. Whose it is follows from the topic that the caller could write to."""

    id: str
    namespace: str
    endpoint: str
    caller: Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")] | None = None
    """As in the request: a namespace ends its own requests only."""


def cancelled_by_caller() -> Refusal:
    """The answer to a request that was cancelled."""
    return Refusal(
        FailureCode.CANCELLED,
        "the request was cancelled by its caller: publish it under another id if it is wanted after all",
    )
