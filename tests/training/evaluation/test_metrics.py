"""Figures and their intervals, against values from the literature and against plain loops."""

from __future__ import annotations

import random

import pytest

from guideway.training.evaluation.intervals import Estimate, mean_of, quantile, wilson
from guideway.training.evaluation.metrics import (
    Counts,
    confusion,
    json_counts,
    macro_f1,
    paired_difference,
    reliability,
    score,
)


def items(*right: bool) -> list[Counts]:
    return [Counts.of_item(one) for one in right]


def close(estimate: Estimate, value: float, low: float, high: float) -> bool:
    return [estimate.value, estimate.low, estimate.high] == pytest.approx([value, low, high], abs=6e-5)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I.
    assert close(wilson(81, 263), 0.3080, 0.2553, 0.3662)
    assert close(wilson(0, 20), 0.0, 0.0, 0.1611)
    assert close(wilson(1, 29), 0.0345, 0.0061, 0.1718)


def test_of_no_rows_nothing_is_known() -> None:
    assert wilson(0, 0) == score([]) == Estimate(0.0, 0.0, 1.0)
    assert paired_difference([], []) == Estimate(0.0, -1.0, 1.0)
    assert mean_of([]) == Estimate(0.0, 0.0, 0.0)
    assert macro_f1(["a"], [], []) == Estimate(0.0, 0.0, 1.0)


def test_the_score_of_single_items_is_accuracy() -> None:
    assert score(items(*[True] * 7, *[False] * 3)) == wilson(7, 10)


def test_the_score_of_many_items_is_micro_f1() -> None:
    found = score([Counts(3, 1, 0), Counts(1, 0, 2)] * 20)
    assert found.value == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert found.low < found.value < found.high
    assert score([Counts(3, 1, 0), Counts(1, 0, 2)] * 20) == found
    assert score([Counts(0, 0, 0)]).value == 1.0


def test_the_difference_of_paired_shares_is_that_of_the_paper() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:2635), method 10: both, only the one, only the other, neither.
    def paired(both: int, ours: int, theirs: int, neither: int) -> Estimate:
        a = [True] * both + [True] * ours + [False] * theirs + [False] * neither
        b = [True] * both + [False] * ours + [True] * theirs + [False] * neither
        return paired_difference(items(*a), items(*b))

    assert close(paired(36, 12, 2, 0), 0.2, 0.0569, 0.3404)
    assert close(paired(54, 0, 0, 0), 0.0, -0.0664, 0.0664)


def test_the_difference_of_fields_is_paired() -> None:
    chance = random.Random(5)
    hard = [chance.random() for _ in range(150)]
    ours = [Counts(round(10 * (1 - h)), round(10 * h), round(10 * h)) for h in hard]
    theirs = [Counts(max(0, c.right - 1), c.wrong + 1, c.missing + 1) for c in ours]
    found = paired_difference(ours, theirs)
    assert 0 < found.low < found.value < found.high < 0.15
    alone = score(ours)
    assert found.high - found.low < (alone.high - alone.low) / 2
    assert paired_difference(theirs, ours).value == pytest.approx(-found.value)


def test_of_few_rows_the_bootstrap_tells_nothing_better() -> None:
    ours, theirs = [Counts(3, 0, 0)] * 19, [Counts(1, 2, 2)] * 19
    assert close(paired_difference(ours, theirs), 2 / 3, -1.0, 1.0)
    assert score(ours) == Estimate(1.0, 0.0, 1.0)
    assert paired_difference([*ours, Counts(3, 0, 0)], [*theirs, Counts(1, 2, 2)]).low > 0


def test_rows_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="the same rows"):
        paired_difference(items(True), items(True, False))


def test_confusion_counts_what_is_no_label_apart() -> None:
    found = confusion(["a", "b"], ["a", "a", "b", "b"], ["a", "b", None, "?"])
    assert found.rows == [[1, 1, 0], [0, 0, 2]]


def test_macro_f1_is_the_mean_over_labels() -> None:
    labels = ["a", "b", "c"]
    chance = random.Random(3)
    expected = [chance.choice("aaaaabbc") for _ in range(200)]
    given = [one if chance.random() < 0.7 else chance.choice(["a", "b", "c", None]) for one in expected]

    def f1(label: str) -> float:
        right = sum(e == g == label for e, g in zip(expected, given, strict=True))
        return 2 * right / (sum(e == label for e in expected) + sum(g == label for g in given))

    found = macro_f1(labels, expected, given)
    assert found.value == pytest.approx(sum(map(f1, labels)) / 3)
    assert found.low < found.value < found.high
    assert macro_f1([*labels, "never"], expected, given).value == pytest.approx(found.value)


def test_json_fields_are_counted_by_path_and_value() -> None:
    expected = {"street": "Main St", "box": {"id": 5}, "tags": ["x", "y"]}
    assert json_counts(expected, expected) == Counts(4, 0, 0)
    assert json_counts(expected, {"street": "Main St", "box": {"id": "5"}, "tags": ["y"]}) == Counts(2, 1, 2)
    assert json_counts(expected, None) == Counts(0, 1, 4)
    # Names may look like paths.
    for one, other in (({"a/b": 1}, {"a": {"b": 1}}), ({"*": 1}, [1]), ({"a": {"*": 1}}, {"a": [1]})):
        assert json_counts(one, other) == Counts(0, 1, 1)


def test_calibration_is_the_distance_between_confidence_and_accuracy() -> None:
    found = reliability([0.95] * 10 + [0.55] * 10, [True] * 10 + [True, False] * 5)
    assert found.error == pytest.approx((0.05 + 0.05) / 2)
    assert [one.rows for one in found.bins] == [0, 0, 0, 0, 0, 10, 0, 0, 0, 10]
    assert reliability([1.0], [False]).error == 1.0
    assert reliability([], []).error == 0.0


def test_quantiles() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([], 0.5) == 0.0
