"""Estimates: figures with 95 % intervals. Pure.

A share of rows has Wilson's interval (1927), which is right for few rows and near 0 and 1. Everything else has the
interval of the percentile bootstrap over rows (Efron 1979), with a fixed seed, so that figures are reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_Z: Final = 1.959964
"""The normal distribution has 95 % within ± this many standard deviations."""
_RESAMPLES: Final = 2000
_SEED: Final = 20261
LEAST_BOOTSTRAP_ROWS: Final = 20
"""With fewer rows the bootstrap's intervals are far too narrow, and empty if all rows are alike. A score or difference
on fewer rows gets the widest interval."""

FEW_POINTS: Final = 5
"""Rows are few if a difference of so many points may be chance."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval: where it would lie on other rows of the same kind."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: int, rows: int) -> Estimate:
    """The share `successes / rows` with Wilson's score interval; (0, 1) without rows."""
    if not rows:
        return Estimate(0.0, 0.0, 1.0)
    share, z2 = successes / rows, _Z * _Z
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def least_difference(rows: int) -> float:
    """The least significant difference of two shares of the same rows, if all rows that differ favour one side."""
    theirs = np.arange(rows) < rows // 2
    for more in range(1, rows - rows // 2 + 1):
        if newcombe(np.arange(rows) < rows // 2 + more, theirs).low > 0:
            return more / rows
    return 1.0


def few_rows(rows: int) -> str:
    """A sentence for few rows, on which a small difference may be chance; empty for many rows."""
    if not rows or (least := least_difference(rows)) < FEW_POINTS / 100:
        return ""
    if least == 1:
        return f"{rows} rows decide, which is too few to tell any difference from chance"
    return f"{rows} rows decide: a difference below {math.ceil(100 * least)} points says nothing"


def share_of(flags: Sequence[bool]) -> Estimate:
    """The share of rows for which something holds: exact matches, valid JSON, refusals."""
    return wilson(sum(flags), len(flags))


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of the values, with the bootstrap's interval."""
    if not values:
        return Estimate(0.0, 0.0, 0.0)
    array = np.asarray(values, dtype=np.float64)
    return bootstrap(len(array), lambda rows: array[rows].mean(axis=-1))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 without values."""
    return float(np.quantile(values, share)) if values else 0.0


def bootstrap(rows: int, statistic: Callable[[NDArray[np.intp]], NDArray[np.float64]], *, width: int = 1) -> Estimate:
    """A figure over rows, with the interval of the percentile bootstrap (Efron 1979).

    statistic: row numbers [some, rows] → `some` figures. width: numbers in memory that it needs for each figure.
    """
    value = float(statistic(np.arange(rows)[None])[0])
    draws = np.concatenate([statistic(part) for part in _resamples(rows, width)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _resamples(rows: int, width: int) -> Iterator[NDArray[np.intp]]:
    """Row numbers drawn with replacement, `_RESAMPLES` in all, in parts [some, rows] that bound the memory."""
    random = np.random.default_rng(_SEED)
    at_once = max(1, min(_RESAMPLES, 2_000_000 // max(rows, width)))
    for begin in range(0, _RESAMPLES, at_once):
        yield random.integers(0, rows, (min(at_once, _RESAMPLES - begin), rows))


def newcombe(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Estimate:
    """The difference of two shares of the same rows, each [rows].

    Newcombe's interval for paired shares (1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", method 10).
    """
    rows = len(ours)
    both, only_ours = int((ours & theirs).sum()), int((ours & ~theirs).sum())
    only_theirs = int((~ours & theirs).sum())
    neither = rows - both - only_ours - only_theirs
    one, other = wilson(both + only_ours, rows), wilson(both + only_theirs, rows)
    margins = (both + only_ours) * (only_theirs + neither) * (both + only_theirs) * (only_ours + neither)
    excess = float(both * neither - only_ours * only_theirs)
    # Newcombe's correction for continuity, if the two agree more often than by chance.
    excess = max(excess - rows / 2, 0.0) if excess > 0 else excess
    phi = excess / math.sqrt(margins) if margins else 0.0
    value = one.value - other.value
    down = (one.value - one.low) ** 2 + (other.high - other.value) ** 2
    down -= 2 * phi * (one.value - one.low) * (other.high - other.value)
    up = (one.high - one.value) ** 2 + (other.value - other.low) ** 2
    up -= 2 * phi * (one.high - one.value) * (other.value - other.low)
    return Estimate(value, value - math.sqrt(max(0.0, down)), value + math.sqrt(max(0.0, up)))
