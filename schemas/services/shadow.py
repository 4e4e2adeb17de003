"""`guideway shadows` ↔ itself: the rows of each endpoint's shadow, and how far it is. Messages hold fields only.

They stand on `gw.NAMESPACE.shadows.v1`, which is compacted. They hold no input, but results may quote it:
they are there until the shadow ends, whatever is erased meanwhile.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Figure = Annotated[list[float], Meta(max_length=3)]
"""[value, low, high], a 95 % interval; empty: it is not known."""


class _Message(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, tag_field="schema"
):
    pass


class ShadowAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What one of the two has answered."""

    value: Any = None
    text: str = ""
    """What the value was read from."""
    probabilities: dict[str, float] = {}
    failure: str = ""
    """The failure code, or `doubtful`; empty where there is a value."""
    message: str = ""
    """What there is to say of the failure."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    latency_ms: float = 0


class ShadowRow(_Message, frozen=True, kw_only=True, tag="guideway.shadow.row.v1"):
    """One event that both have answered. Its key ends in a digest of the event's id: it counts once."""

    shadow: str
    """The id of the shadow."""
    id: str
    """Of the event."""
    now: ShadowAnswer
    """Of the endpoint as it is."""
    new: ShadowAnswer
    """Of the endpoint as it might be."""


class ShadowFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What came of comparing the two."""

    rows: Annotated[int, Meta(ge=0)]
    changed: Annotated[int, Meta(ge=0)]
    """Rows whose results differ."""
    metric: str = ""
    """What the agreement is: accuracy, F1 and the like."""
    agreement: Figure = []
    """How far the new results are those of now."""
    answered_now: Figure = []
    """The share of rows that have a result."""
    answered_new: Figure = []
    answered_over: Figure = []
    """New minus now, row by row."""


class ShadowState(_Message, frozen=True, kw_only=True, tag="guideway.shadow.state.v1"):
    """How far the shadow of an endpoint is. Kept: the latest of each endpoint, whose name is the key."""

    shadow: str
    """The id: another one wherever something else is compared."""
    stage: Literal["running", "promoting", "ended"]
    """`promoting`: the candidate is about to take the endpoint's place, or has just done so."""
    begun_ms: int
    """Unix time in milliseconds."""
    at_ms: int
    """When this was written."""
    changes: dict[str, str]
    """What is new, for people."""
    version: Annotated[int, Meta(ge=1)]
    """The endpoint's: when the shadow began; once the candidate is promoted, the new one."""
    rows: Annotated[int, Meta(ge=1)]
    """How many are wanted."""
    becomes: str
    """A digest of what the endpoint would be: by it a promotion is known again after a kill."""
    promote: Literal["never", "if_better"] = "never"
    outcome: Literal["compared", "promoted", "not_promoted", "stopped"] | None = None
    """Once it has ended. `stopped`: before it had all rows."""
    why: str = ""
    """Why it was not promoted, or was stopped."""
    figures: ShadowFigures | None = None
    """Once it has ended with rows."""
    trouble: str = ""
    """What keeps it up, for a person; empty: nothing."""


ShadowNews = ShadowRow | ShadowState
