"""Our services → operators: what namespaces use of their limits at present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=0)]


class Used(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What one namespace uses in one process. `waiting` and `rows` are always told, the others where it is limited."""

    requests_per_minute: _Count = 0
    """In the last minute."""
    tokens_per_minute: _Count = 0
    """In the last minute, as the intake has estimated them."""
    cancellations_per_minute: _Count = 0
    """In the last minute."""
    waiting: _Count = 0
    """Requests that are published to workers and unanswered."""
    reply_addresses: _Count = 0
    """In use."""
    rows: _Count = 0
    """In the micro-batch."""


class Usage(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="schema",
    tag="guideway.usage.v1",
):
    """What one process of a service knows at one time. It tells this every few seconds while there is anything."""

    at_ms: int
    """Unix time in milliseconds."""
    service: Literal["endpoints", "worker"]
    process: str
    """Another for each process."""
    namespaces: Mapping[str, Used]
    """At most 1,000 of them."""


def added(told: Mapping[str, Usage]) -> dict[str, Used]:
    """Namespace → what it uses in all these processes together; of `rows` it is the most in any worker. Pure."""
    found: dict[str, dict[str, int]] = {}
    for usage in told.values():
        for namespace, used in usage.namespaces.items():
            sums = found.setdefault(namespace, dict.fromkeys(Used.__struct_fields__, 0))
            for field, value in msgspec.structs.asdict(used).items():
                sums[field] = max(sums[field], value) if field == "rows" else sums[field] + value
    return {namespace: Used(**sums) for namespace, sums in found.items()}
