"""How far two results of an endpoint are from each other, from 0 (the same) to 1. Pure."""

from __future__ import annotations

import difflib
from typing import Any, Final

from guideway.schemas.output import Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.training.evaluation.metrics import json_counts
from guideway.training.replays.answers import Given

_COMPARED_CHARS: Final = 400
"""Of longer texts the beginnings are compared: the comparison takes time by the square of the length."""


def distance(rule: OutputRule, now: Given, new: Given) -> float:
    """Of two answers to one input. One with a value and one without are as far apart as can be.

    Probabilities: half the sum of their differences (the total variation distance). Numbers: the difference by the
    larger one. JSON: 1 - F1 of its fields. Labels of words: the share that differs. Texts: 1 - the share of characters
    that match in order (Ratcliff and Obershelp, as difflib has it).
    """
    if now.failure or new.failure:
        return 0.0 if now.failure and new.failure else 1.0
    if now.probabilities and new.probabilities:
        labels = now.probabilities.keys() | new.probabilities.keys()
        of = [abs(now.probabilities.get(label, 0.0) - new.probabilities.get(label, 0.0)) for label in labels]
        return min(1.0, sum(of) / 2)
    return _of_values(rule, now.value, new.value)


def is_same(now: Any, new: Any) -> bool:
    """Whether two values are one in JSON, where `true` is no number."""
    match now, new:
        case dict(), dict():
            return now.keys() == new.keys() and all(is_same(one, new[name]) for name, one in now.items())
        case list(), list():
            return len(now) == len(new) and all(map(is_same, now, new))
    return isinstance(now, bool) == isinstance(new, bool) and bool(now == new)


def _of_values(rule: OutputRule, now: Any, new: Any) -> float:
    if is_same(now, new):
        return 0.0
    far = 1.0
    match rule:
        case Number() if isinstance(now, int | float) and isinstance(new, int | float):
            far = abs(now - new) / max(abs(now), abs(new))
        case Json():
            found = json_counts(now, new)
            far = 1 - 2 * found.right / (2 * found.right + found.wrong + found.missing)
        case WordLabels() if isinstance(now, list) and isinstance(new, list) and len(now) == len(new):
            far = sum(one != other for one, other in zip(now, new, strict=True)) / max(1, len(now))
        case Text() | Regex() if isinstance(now, str) and isinstance(new, str):
            far = (
                1 - difflib.SequenceMatcher(None, now[:_COMPARED_CHARS], new[:_COMPARED_CHARS], autojunk=False).ratio()
            )
    # What differs is not the same, however near.
    return min(1.0, max(0.001, far))
