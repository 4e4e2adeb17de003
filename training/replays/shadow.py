"""What live traffic says against a candidate. Pure.

Live traffic has no right answers, so it cannot say that a candidate is better: the scores of runs do
(`training/publishing/promotion.py`). It can say that a candidate does not do there what it did on its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from guideway.schemas.kinds import shadow as manifest

if TYPE_CHECKING:
    # It needs numpy, and whoever only wants the limits should not.
    from guideway.training.replays.comparison import Compared

MOST_LOST: Final = 0.02
"""The share of rows without a result may not grow by as much: the whole interval of the difference must lie above."""
LEAST_ROWS: Final = manifest.LEAST_ROWS


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a shadow, beside its comparison."""

    early: str = ""
    """Why it has ended before it had all rows; empty: it had."""
    promoted: bool = False
    version: int | None = None
    """The endpoint's, where the candidate was promoted."""
    why: str = ""
    """Why it was not; empty as well where nobody wanted it."""

    @property
    def told(self) -> str:
        """In sentences; empty where there is nothing to say."""
        told = [f"It ended early: {self.early}."] if self.early else []
        if self.promoted:
            told.append(f"The candidate was promoted: it is version {self.version} of the endpoint.")
        elif self.why:
            told.append(f"The candidate was not promoted: {self.why}.")
        return " ".join(told)


def why_not(compared: Compared) -> str:
    """Why these rows forbid to promote; empty where they do not."""
    if compared.agreement is None:
        return compared.incomparable or "the endpoint has no result for any of these rows, so nothing is compared"
    answered = compared.figure("answered")
    if answered is None or (over := answered.difference) is None or over.low <= -MOST_LOST:
        told = (
            "" if answered is None else f" (now {answered.now}, new {answered.new}, difference {answered.difference})"
        )
        return f"it may leave {MOST_LOST:.0%} more of live traffic without a result{told}"
    return ""
