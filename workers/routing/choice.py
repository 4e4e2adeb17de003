"""Scores of endpoints → the endpoint that is chosen, or none. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

NONE: Final = ""
"""Stands for none of the endpoints among labels and scores."""
_EPSILON: Final = 1e-9


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Best first; of equal scores, in the order of their names."""
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))


def chosen(
    scores: Mapping[str, float], candidates: Collection[str], *, least_score: float, least_margin: float
) -> str | None:
    """The endpoint that is chosen; None if the scores are too low, too near, or of what is no candidate.

    An endpoint that is gone still takes what is like its own: what belonged to it goes nowhere else.
    """
    best, *others = [*ranked(scores), (NONE, float("-inf"))]
    endpoint, score = best
    if endpoint == NONE or endpoint not in candidates or score < least_score - _EPSILON:
        return None
    return endpoint if score - others[0][1] >= least_margin - _EPSILON else None
