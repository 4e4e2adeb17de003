"""One temperature for the probabilities of labels, so that they say how often the answer is right. Pure.

p becomes p^(1/T), made to sum to 1 again, with the T that makes the right labels of labelled rows the most probable:
the least mean negative log-likelihood (temperature scaling, Guo et al. 2017, https://arxiv.org/abs/1706.04599). The
order of the labels stays as it is, and with it every answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from guideway.schemas.output import COLDEST_LABELS, HOTTEST_LABELS
from guideway.training.evaluation.metrics import reliability
from guideway.training.runs.events import Softening

LEAST_ROWS: Final = 50
"""Of fewer rows the temperature is chance."""
_ROUNDS: Final = 40
_LEAST: Final = 1e-30


def softening(shares: Sequence[Sequence[float]], right: Sequence[int], *, temperature: float = 1.0) -> Softening | None:
    """Of rows with the probability of each label and the number of the right one; None for fewer than `LEAST_ROWS`.

    temperature: that with which these probabilities are told already. The one that is found stands in its place.
    """
    if len(shares) < LEAST_ROWS:
        return None
    # But for a constant of each row, which changes nothing, these are the logarithms at temperature 1.
    logs, which = np.log(np.maximum(np.array(shares), _LEAST)) * temperature, np.array(right)
    halves = np.arange(len(logs)) % 2 == 0
    judged = np.empty_like(logs)
    for half in (halves, ~halves):
        judged[half] = _at(logs[half], _fitted(logs[~half], which[~half]))
    return Softening(round(_fitted(logs, which), 3), _error(_at(logs, 1.0), which), _error(judged, which))


def _fitted(logs: NDArray[np.float64], right: NDArray[np.int64]) -> float:
    """By bisection: in 1/T the loss is convex, so its slope grows."""
    own = logs[np.arange(len(logs)), right].mean()
    low, high = np.log(1 / HOTTEST_LABELS), np.log(1 / COLDEST_LABELS)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        slope = (_at(logs, float(np.exp(-middle))) * logs).sum(axis=1).mean() - own
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _at(logs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """The probabilities [rows, labels] at this temperature."""
    scaled = logs / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return found


def _error(shares: NDArray[np.float64], right: NDArray[np.int64]) -> float:
    best = shares.argmax(axis=1)
    return reliability([float(one) for one in shares.max(axis=1)], [bool(one) for one in best == right]).error
