"""A share of an endpoint's live traffic, asked again of the endpoint as it might be."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.kinds.manifest import Name
from guideway.schemas.output import OutputRule
from guideway.schemas.retrieval import MAX_SETS, GuidanceUse, SetUse

LEAST_ROWS: Final = 200
"""With fewer, a growing share of rows without a result is not ruled out even if all have one: Newcombe's interval then
reaches z²/(n + z²)."""
MOST_ROWS: Final = 20_000


class ShadowChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What would be new at an endpoint. What is null or left out stays as it is."""

    guidance: list[GuidanceUse] | None = None
    """In place of the endpoint's guidance; an empty list: no guidance."""
    instruction: str | None = None
    """In place of its instruction; empty: no instruction."""
    model_size: Name | None = None
    """The name of another `model/v1`."""
    output: OutputRule | None = None
    """Another output rule."""
    retrieval: Annotated[list[SetUse], Meta(max_length=MAX_SETS)] | None = None
    """The sets in place of those of its retrieval rule, of which the rest stays; an empty list: no retrieval."""
    calibration: Literal["auto", "off", "contextual"] | None = None
    """Another calibration."""

    @property
    def named(self) -> dict[str, Any]:
        """What is new, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A share of live traffic that `guideway shadows` asks again, as the endpoint is and as it might be."""

    with_: Literal["candidate"] | ShadowChanges = msgspec.field(name="with", default="candidate")
    """What is new: `candidate`, the endpoint that `guideway studio publish --candidate` puts beside this one; or what
    would be different."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """Of the events, chosen by their ids: 0.05 is one in twenty."""
    rows: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = 2000
    """Both are compared on so many."""
    promote: Literal["never", "if_better"] = "never"
    """`if_better`: the candidate takes the endpoint's place, by the rule of `guideway studio promote`, where live
    traffic does not speak against it."""
    despite_limits: bool = False
    """Also in a namespace with limits, of which it uses a part: it asks two requests for each event that it chooses."""

    def __post_init__(self) -> None:
        if isinstance(self.with_, ShadowChanges):
            if not self.with_.named:
                raise ValueError(
                    "shadow.with says nothing that is new: name what is, as `guidance: [NAMESPACE/NAME@VERSION]`, or "
                    "write `with: candidate`"
                )
            if self.promote == "if_better":
                raise ValueError(
                    "shadow.promote is `if_better`, and live traffic has no right answers, so it cannot show that this "
                    "is better: only a candidate has the score of a run. Put it there with `guideway studio publish "
                    "--candidate` and write `with: candidate`, or leave out `promote`"
                )
        if self.promote == "if_better" and self.rows < LEAST_ROWS:
            raise ValueError(
                f"shadow.rows is {self.rows}, which are too few to promote anything: write {LEAST_ROWS} or more"
            )
