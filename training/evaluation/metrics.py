"""How good answers are, in figures that say how sure they are. Pure: no model, no files.

Every figure is an `Estimate` with a 95 % interval, as `intervals` makes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from guideway.training.evaluation.intervals import LEAST_BOOTSTRAP_ROWS, Estimate, bootstrap, newcombe, wilson

_BINS: Final = 10


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


def score(counts: Sequence[Counts]) -> Estimate:
    """Micro-F1 of the items; of rows that are one item each, accuracy."""
    if not counts:
        return wilson(0, 0)
    table = _table(counts)
    if _are_single(table):
        return wilson(int(table[:, 0].sum()), len(table))
    if len(table) < LEAST_BOOTSTRAP_ROWS:
        return Estimate(float(_f1(table.sum(axis=0))), 0.0, 1.0)
    return bootstrap(len(table), lambda rows: _f1(table[rows].sum(axis=-2)))


def paired_difference(ours: Sequence[Counts], theirs: Sequence[Counts]) -> Estimate:
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
        return newcombe(a[:, 0] > 0, b[:, 0] > 0)
    if len(a) < LEAST_BOOTSTRAP_ROWS:
        return Estimate(float(_f1(a.sum(axis=0)) - _f1(b.sum(axis=0))), -1.0, 1.0)
    return bootstrap(len(a), lambda rows: _f1(a[rows].sum(axis=-2)) - _f1(b[rows].sum(axis=-2)))


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

    return bootstrap(len(codes), statistic, width=size * (size + 1))


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


class Reliability(msgspec.Struct, frozen=True):
    """Whether answers are as often right as the model is sure of them (Guo et al. 2017).

    `error`, the expected calibration error, is the mean distance between confidence and accuracy over `bins`, by rows.
    """

    error: float
    bins: list[Bin]


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> Reliability:
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
    return Reliability(error, made)


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
