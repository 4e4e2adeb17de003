"""Endpoint service → every worker of a model size: a caller wants no result of a request any more."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal

HELD_S: Final = 3600
"""Seconds for which a cancellation holds after it was published; its topic keeps it as long."""


class Cancellation(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.cancellation.v1",
):
    """The request to end. Namespace and endpoint are those of the topic that the caller could write to."""

    id: str
    namespace: str
    endpoint: str


def cancelled_by_caller() -> Refusal:
    """The answer to a request that was cancelled."""
    return Refusal(
        FailureCode.CANCELLED,
        "the request was cancelled by its caller: publish it under another id if it is wanted after all",
    )
