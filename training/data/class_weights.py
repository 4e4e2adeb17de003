"""Weights of labels in the loss, so that rare labels are learnt too. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

SKEWED: Final = 3
"""Labels are weighted if the most frequent one has at least so many times the rows of the rarest."""
MOST_WEIGHT: Final = 10
"""The largest weight of a row, relative to one of the most frequent label: a few rows must not decide all."""


def class_weights(answers: Sequence[str], setting: str) -> dict[str, float]:
    """Label → the weight of its rows in the loss, 1 on average over the rows; empty if all rows count the same.

    `balanced` gives each label the same sum of weights, except where `MOST_WEIGHT` limits a rare one.
    """
    rows = Counter(answers)
    if setting == "none" or (setting == "auto" and max(rows.values()) < SKEWED * min(rows.values())):
        return {}
    heaviest = {label: min(MOST_WEIGHT, max(rows.values()) / count) for label, count in rows.items()}
    mean = sum(heaviest[label] * count for label, count in rows.items()) / len(answers)
    return {label: weight / mean for label, weight in heaviest.items()}
