"""How good answers are, in figures that say how sure they are. Pure: no model, no files.

Every figure is an `Estimate` with a 95 % interval. Of a share of rows it is Wilson's (1927), which holds for few
rows and near 0 and 1; of everything else the percentile bootstrap over rows (Efron 1979), with a fixed seed, so that a
figure can be made again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_Z: Final = 1.959964
"""Of a normal distribution's middle 95 %."""
_RESAMPLES: Final = 2000
_SEED: Final = 20261
_BINS: Final = 10
LEAST_BOOTSTRAP_ROWS: Final = 20
"""Of fewer rows the bootstrap's intervals are far too narrow, down to nothing where all rows are alike: of a score or a
difference on so few, the interval says that nothing is known."""

FEW_POINTS: Final = 5
"""Where no difference below so many points can be told from chance, rows are few."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure and the 95 % interval in which it would lie on other rows of the same kind."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Counts(msgspec.Struct, frozen=True):
    """What is right in one row's answer: items of it that are right, wrong, and missing.

    Items are what the output rule promises: a label, a number or a text is one item, a JSON value has one a field, a
    labelled text one a word. Over rows, `2·right / (2·right + wrong + missing)` is micro-F1, and where each row is one
    item it is accuracy: a wrong answer is both a wrong item and a missing one.
    """

    right: int
    wrong: int
    missing: int

    @staticmethod
    def of_item(right: bool) -> Counts:
        return Counts(1, 0, 0) if right else Counts(0, 1, 1)


def wilson(successes: int, rows: int) -> Estimate:
    """The share `successes / rows` with Wilson's score interval; (0, 1) of no rows."""
    if not rows:
        return Estimate(0.0, 0.0, 1.0)
    share, z2 = successes / rows, _Z * _Z
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def score(counts: Sequence[Counts]) -> Estimate:
    """Micro-F1 of the items; of rows that are one item each, accuracy."""
    if not counts:
        return wilson(0, 0)
    table = _table(counts)
    if _are_single(table):
        return wilson(int(table[:, 0].sum()), len(table))
    if len(table) < LEAST_BOOTSTRAP_ROWS:
        return Estimate(float(_f1(table.sum(axis=0))), 0.0, 1.0)
    return _bootstrap(len(table), lambda rows: _f1(table[rows].sum(axis=-2)))


def difference(ours: Sequence[Counts], theirs: Sequence[Counts]) -> Estimate:
    """How much better `ours` scores than `theirs` on the same rows, in the same order.

    Paired: what is hard for both cancels out. For rows of one item each it is Newcombe's interval for paired shares
    (1998, method 10), which does not shrink to nothing on few rows as the bootstrap does; else the bootstrap.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rows against {len(theirs)}: score both on the same rows")
    if not ours:
        return Estimate(0.0, -1.0, 1.0)
    a, b = _table(ours), _table(theirs)
    if _are_single(a) and _are_single(b):
        return _newcombe(a[:, 0] > 0, b[:, 0] > 0)
    if len(a) < LEAST_BOOTSTRAP_ROWS:
        return Estimate(float(_f1(a.sum(axis=0)) - _f1(b.sum(axis=0))), -1.0, 1.0)
    return _bootstrap(len(a), lambda rows: _f1(a[rows].sum(axis=-2)) - _f1(b[rows].sum(axis=-2)))


def least_difference(rows: int) -> float:
    """The least difference between two shares of the same rows that can be told from chance: all for one side."""
    theirs = np.arange(rows) < rows // 2
    for more in range(1, rows - rows // 2 + 1):
        if _newcombe(np.arange(rows) < rows // 2 + more, theirs).low > 0:
            return more / rows
    return 1.0


def few_rows(rows: int) -> str:
    """What to say of so few rows that a small difference between figures on them is chance; nothing of many."""
    if not rows or (least := least_difference(rows)) < FEW_POINTS / 100:
        return ""
    if least == 1:
        return f"{rows} rows decide, which is too few to tell any difference from chance"
    return f"{rows} rows decide: a difference below {math.ceil(100 * least)} points says nothing"


def share_of(flags: Sequence[bool]) -> Estimate:
    """The share of rows for which something holds: exact matches, valid JSON, refusals."""
    return wilson(sum(flags), len(flags))


def mean_of(values: Sequence[float]) -> Estimate:
    """Their mean, with the bootstrap's interval."""
    if not values:
        return Estimate(0.0, 0.0, 0.0)
    array = np.asarray(values, dtype=np.float64)
    return _bootstrap(len(array), lambda rows: array[rows].mean(axis=-1))


class Confusion(msgspec.Struct, frozen=True):
    """Which label was given for which: `rows[i][j]` rows of label i were answered with label j.

    Example and column are in the order of `labels`; the last column counts answers that are none of them, as refusals.
    """

    labels: list[str]
    rows: list[list[int]]


def confusion(labels: Sequence[str], expected: Sequence[str], given: Sequence[str | None]) -> Confusion:
    """expected are all of `labels`; given is None, or anything else, where there was no such answer."""
    place = {label: i for i, label in enumerate(labels)}
    rows = [[0] * (len(labels) + 1) for _ in labels]
    for right, answer in zip(expected, given, strict=True):
        rows[place[right]][place.get(answer or "", len(labels))] += 1
    return Confusion(list(labels), rows)


def macro_f1(labels: Sequence[str], expected: Sequence[str], given: Sequence[str | None]) -> Estimate:
    """The mean over labels of each label's F1, so that a rare label counts as much as a frequent one.

    A label that is neither expected nor given in a resample is left out of its mean.
    """

    def of_tables(tables: NDArray[np.int64]) -> NDArray[np.float64]:
        right = np.diagonal(tables, axis1=1, axis2=2)
        both = tables.sum(axis=2) + tables[:, :, :-1].sum(axis=1)
        f1 = np.divide(2 * right, both, out=np.zeros(both.shape), where=both > 0)
        mean: NDArray[np.float64] = f1.sum(axis=1) / np.maximum(1, (both > 0).sum(axis=1))
        return mean

    return _of_confusions(labels, expected, given, of_tables)


def balanced_accuracy(labels: Sequence[str], expected: Sequence[str], given: Sequence[str | None]) -> Estimate:
    """The mean over labels of the share of each label's rows that are right: who always says the same has 1 / labels.

    A label that is not expected in a resample is left out of its mean.
    """

    def of_tables(tables: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = tables.sum(axis=2)
        recall = np.divide(np.diagonal(tables, axis1=1, axis2=2), rows, out=np.zeros(rows.shape), where=rows > 0)
        mean: NDArray[np.float64] = recall.sum(axis=1) / np.maximum(1, (rows > 0).sum(axis=1))
        return mean

    return _of_confusions(labels, expected, given, of_tables)


def _of_confusions(
    labels: Sequence[str],
    expected: Sequence[str],
    given: Sequence[str | None],
    of_tables: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> Estimate:
    """of_tables: of confusion tables [some, labels, labels + 1], as `Confusion` has them, to as many figures."""
    size = len(labels)
    place = {label: i for i, label in enumerate(labels)}
    answers = [place.get(answer or "", size) for answer in given]
    codes = np.array([place[right] * (size + 1) + answer for right, answer in zip(expected, answers, strict=True)])
    if not len(codes):
        return wilson(0, 0)

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        drawn = codes[rows]
        cells = size * (size + 1)
        shifted = drawn + np.arange(len(drawn))[:, None] * cells
        return of_tables(np.bincount(shifted.ravel(), minlength=len(drawn) * cells).reshape(-1, size, size + 1))

    return _bootstrap(len(codes), statistic, width=size * (size + 1))


def json_counts(expected: Any, given: Any) -> Counts:
    """Fields right, wrong and missing: a field is right where path and value are those expected.

    The place in a list is no part of the path.
    """
    wanted, found = Counter(_fields(expected)), Counter(_fields(given))
    right = (wanted & found).total()
    return Counts(right, found.total() - right, wanted.total() - right)


class Bin(msgspec.Struct, frozen=True):
    """Answers whose confidence lay in one tenth of 0 to 1."""

    rows: int
    confidence: float
    """Mean."""
    accuracy: float


class Calibration(msgspec.Struct, frozen=True):
    """Whether answers are as often right as the model is sure of them (Guo et al. 2017).

    `error`, the expected calibration error, is the mean distance between confidence and accuracy over `bins`, by rows.
    """

    error: float
    bins: list[Bin]


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """confidences from 0 to 1, one a row."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for confidence, is_right in zip(confidences, right, strict=True):
        bins[min(_BINS - 1, int(confidence * _BINS))].append((confidence, is_right))
    made = [
        Bin(len(some), sum(c for c, _ in some) / len(some), sum(r for _, r in some) / len(some))
        if some
        else Bin(0, 0, 0)
        for some in bins
    ]
    total = sum(one.rows for one in made)
    error = sum(one.rows * abs(one.confidence - one.accuracy) for one in made) / total if total else 0.0
    return Calibration(error, made)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 of none."""
    return float(np.quantile(values, share)) if values else 0.0


def _table(counts: Sequence[Counts]) -> NDArray[np.int64]:
    """[rows, 3]: right, wrong, missing."""
    return np.array([(c.right, c.wrong, c.missing) for c in counts], dtype=np.int64).reshape(-1, 3)


def _are_single(table: NDArray[np.int64]) -> bool:
    """Whether every row is one item, right or not."""
    return bool(((table == (1, 0, 0)).all(axis=1) | (table == (0, 1, 1)).all(axis=1)).all())


def _f1(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of sums [..., 3]; nothing expected and nothing given is right."""
    right, both = 2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]
    f1: NDArray[np.float64] = np.divide(right, both, out=np.ones(both.shape), where=both > 0)
    return f1


def _bootstrap(rows: int, statistic: Callable[[NDArray[np.intp]], NDArray[np.float64]], *, width: int = 1) -> Estimate:
    """statistic takes row numbers [some, rows] and gives `some` figures, for each of which it needs `width` cells."""
    value = float(statistic(np.arange(rows)[None])[0])
    draws = np.concatenate([statistic(part) for part in _resamples(rows, width)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _resamples(rows: int, width: int) -> Iterator[NDArray[np.intp]]:
    """Example numbers drawn with replacement, [some, rows] at a time, `_RESAMPLES` in all, in bounded memory."""
    random = np.random.default_rng(_SEED)
    at_once = max(1, min(_RESAMPLES, 2_000_000 // max(rows, width)))
    for begin in range(0, _RESAMPLES, at_once):
        yield random.integers(0, rows, (min(at_once, _RESAMPLES - begin), rows))


def _newcombe(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Estimate:
    rows = len(ours)
    both, only_ours = int((ours & theirs).sum()), int((ours & ~theirs).sum())
    only_theirs = int((~ours & theirs).sum())
    neither = rows - both - only_ours - only_theirs
    one, other = wilson(both + only_ours, rows), wilson(both + only_theirs, rows)
    margins = (both + only_ours) * (only_theirs + neither) * (both + only_theirs) * (only_ours + neither)
    excess = float(both * neither - only_ours * only_theirs)
    # Newcombe's correction for continuity, where the two agree more often than chance.
    excess = max(excess - rows / 2, 0.0) if excess > 0 else excess
    phi = excess / math.sqrt(margins) if margins else 0.0
    value = one.value - other.value
    down = (one.value - one.low) ** 2 + (other.high - other.value) ** 2
    down -= 2 * phi * (one.value - one.low) * (other.high - other.value)
    up = (one.high - one.value) ** 2 + (other.value - other.low) ** 2
    up -= 2 * phi * (one.high - one.value) * (other.value - other.low)
    return Estimate(value, value - math.sqrt(max(0.0, down)), value + math.sqrt(max(0.0, up)))


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value as JSON) of everything in a JSON value that holds nothing itself."""
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _fields(inner, f"{path}/{name}")
        case list() if value:
            for inner in value:
                yield from _fields(inner, f"{path}/*")
        case _:
            yield path, msgspec.json.encode(value).decode()
