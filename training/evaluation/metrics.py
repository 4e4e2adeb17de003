"""Figures of how good answers are, each an `Estimate` with a 95 % interval. Pure: no model, no files."""

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
    """How many items of one row's answer are right, wrong and missing.

    A label, a number or a text is one item. A JSON value has one item for each field, a labelled text one for each
    word. Over rows, `2·right / (2·right + wrong + missing)` is micro-F1. If each row is one item, it is accuracy: a
    wrong answer is both a wrong item and a missing one.
    """

    right: int
    wrong: int
    missing: int

    @staticmethod
    def of_item(right: bool) -> Counts:
        """The counts of an answer of one item."""
        return Counts(1, 0, 0) if right else Counts(0, 1, 1)


def score(counts: Sequence[Counts]) -> Estimate:
    """Micro-F1 of the items; if each row is one item, this is accuracy."""
    if not counts:
        return wilson(0, 0)
    table = _table(counts)
    if _are_single(table):
        return wilson(int(table[:, 0].sum()), len(table))
    if len(table) < LEAST_BOOTSTRAP_ROWS:
        return Estimate(float(_f1(table.sum(axis=0))), 0.0, 1.0)
    return bootstrap(len(table), lambda rows: _f1(table[rows].sum(axis=-2)))


def paired_difference(ours: Sequence[Counts], theirs: Sequence[Counts]) -> Estimate:
    """The score of `ours` minus that of `theirs`, on the same rows in the same order.

    It is paired, so that rows that are hard for both do not widen the interval. If each row is one item, it is
    Newcombe's interval (`newcombe`), which is wide enough on few rows; else the bootstrap's.

    Raises: ValueError if the numbers of rows differ.
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
    """A confusion matrix: `rows[i][j]` rows of label i were answered with label j.

    Rows and columns are in the order of `labels`. The last column counts other answers, such as refusals.
    """

    labels: list[str]
    rows: list[list[int]]


def confusion(labels: Sequence[str], expected: Sequence[str], given: Sequence[str | None]) -> Confusion:
    """The confusion matrix. expected: a label for each row. given: a label, or None or any text for other answers."""
    place = {label: i for i, label in enumerate(labels)}
    rows = [[0] * (len(labels) + 1) for _ in labels]
    for right, answer in zip(expected, given, strict=True):
        rows[place[right]][place.get(answer or "", len(labels))] += 1
    return Confusion(list(labels), rows)


def macro_f1(labels: Sequence[str], expected: Sequence[str], given: Sequence[str | None]) -> Estimate:
    """The mean of the F1 of each label: rare labels count as much as frequent ones.

    In a resample, a label that is neither expected nor given is left out of the mean.
    """

    def of_tables(tables: NDArray[np.int64]) -> NDArray[np.float64]:
        right = np.diagonal(tables, axis1=1, axis2=2)
        both = tables.sum(axis=2) + tables[:, :, :-1].sum(axis=1)
        f1 = np.divide(2 * right, both, out=np.zeros(both.shape), where=both > 0)
        mean: NDArray[np.float64] = f1.sum(axis=1) / np.maximum(1, (both > 0).sum(axis=1))
        return mean

    return _of_confusions(labels, expected, given, of_tables)


def balanced_accuracy(labels: Sequence[str], expected: Sequence[str], given: Sequence[str | None]) -> Estimate:
    """The mean of the accuracy on the rows of each label. A constant answer scores 1 / number of labels.

    In a resample, a label that is not expected is left out of the mean.
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
    """A figure of the confusion matrix. of_tables: matrices [some, labels, labels + 1] → `some` figures."""
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
    """Counts of fields: a field is right if its path and value are expected.

    The index in a list is not part of the path.
    """
    wanted, found = Counter(_fields(expected)), Counter(_fields(given))
    right = (wanted & found).total()
    return Counts(right, found.total() - right, wanted.total() - right)


class Bin(msgspec.Struct, frozen=True):
    """The answers whose confidence is in one tenth of the range 0 to 1."""

    rows: int
    confidence: float
    """The mean confidence."""
    accuracy: float


class Reliability(msgspec.Struct, frozen=True):
    """Whether answers are right as often as the model's confidence says (Guo et al. 2017).

    `error` is the expected calibration error: the mean distance of confidence and accuracy over `bins`, weighted by
    rows.
    """

    error: float
    bins: list[Bin]


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> Reliability:
    """The reliability of answers. confidences: from 0 to 1, one for each row."""
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
    """F1 of sums [..., 3]; 1 if nothing is expected and nothing given."""
    right, both = 2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]
    f1: NDArray[np.float64] = np.divide(right, both, out=np.ones(both.shape), where=both > 0)
    return f1


def _fields(value: Any, path: tuple[str | None, ...] = ()) -> Iterator[tuple[tuple[str | None, ...], str]]:
    """(path, value as JSON) of each scalar and each empty list or object in a JSON value. A list's step is None."""
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _fields(inner, (*path, name))
        case list() if value:
            for inner in value:
                yield from _fields(inner, (*path, None))
        case _:
            yield path, msgspec.json.encode(value).decode()
