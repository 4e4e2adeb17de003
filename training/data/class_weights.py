"""Weights of labels in the loss, so that a rare label is learnt as well. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

SKEWED: Final = 3
"""So many times the rows of the rarest label has the most frequent one, from where on labels are weighted."""
MOST_WEIGHT: Final = 10
"""Of a label's rows against those of the most frequent one: few rows say little, however loud."""


def class_weights(answers: Sequence[str], setting: str) -> dict[str, float]:
    """Label → the weight of its rows in the loss, 1 on average over the rows; empty where all count alike.

    `balanced` gives each label the same sum of weights, as far as `MOST_WEIGHT` for the rarest goes.
    """
    rows = Counter(answers)
    if setting == "none" or (setting == "auto" and max(rows.values()) < SKEWED * min(rows.values())):
        return {}
    heaviest = {label: min(MOST_WEIGHT, max(rows.values()) / count) for label, count in rows.items()}
    mean = sum(heaviest[label] * count for label, count in rows.items()) / len(answers)
    return {label: weight / mean for label, weight in heaviest.items()}
