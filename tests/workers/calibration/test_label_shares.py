"""Shares of labels → biases: what is asked for comes out, also where labels begin alike."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from guideway.schemas.calibration import MAX_BIAS
from guideway.workers.calibration.content_free import kinds
from guideway.workers.calibration.label_shares import Parting, agreed, fitted, usual
from guideway.workers.messages.from_engine import Branch


def flat(**shares: float) -> Parting:
    total = sum(shares.values())
    return [Branch(labels=[label], log_share=math.log(one / total)) for label, one in shares.items()]


def best(partings: Sequence[Parting], biases: dict[str, float]) -> str:
    [parting] = partings
    return max(parting, key=lambda branch: branch.log_share + biases[branch.labels[0]]).labels[0]


def test_what_is_usual_is_taken_off() -> None:
    partings = [flat(a=8, b=1, c=1), flat(a=7, b=2, c=1), flat(a=9, b=1, c=2)]
    biases = usual(partings, ["a", "b", "c"])
    for label in "abc":
        mean = sum(next(b.log_share for b in p if b.labels == [label]) for p in partings) / 3
        others = biases["a"] + sum(next(b.log_share for b in p if b.labels == ["a"]) for p in partings) / 3
        assert biases[label] + mean == pytest.approx(others), "the means are alike once biases are added"
    assert best([flat(a=6, b=5, c=1)], biases) == "b"


def test_only_what_all_kinds_of_texts_agree_on_is_taken_off() -> None:
    one, other = flat(a=6, b=2, c=4), flat(a=6, b=4, c=2)
    both = agreed([[one], [other]], ["a", "b", "c"])
    assert both["a"] < both["b"], "a is favoured by both"
    assert both["b"] == pytest.approx(both["c"]), "of these two, either is favoured by one and not by the other"
    assert agreed([[one], [one]], ["a", "b", "c"]) == pytest.approx(usual([one], ["a", "b", "c"]))
    assert agreed([[flat(a=3, b=1)], [flat(a=1, b=3)]], ["a", "b"]) == pytest.approx({"a": 0, "b": 0})
    assert agreed([[flat(a=3, b=1)], [flat(a=9, b=1)]], ["a", "b"]) == pytest.approx(
        usual([flat(a=3, b=1)], ["a", "b"])
    )


def test_a_place_that_one_kind_never_came_to_gives_nothing() -> None:
    assert agreed([[flat(a=3, b=1)], []], ["a", "b"]) == {"a": 0, "b": 0}


def test_branches_of_several_labels_have_their_number_of_all_shares() -> None:
    """Two of three labels begin alike: even means two thirds for their branch, and a half for each in it."""
    root = [Branch(labels=["x", "y"], log_share=math.log(2 / 3)), Branch(labels=["z"], log_share=math.log(1 / 3))]
    assert usual([root, flat(x=1, y=1)], ["x", "y", "z"]) == pytest.approx({"x": 0, "y": 0, "z": 0})
    leaning = usual([root, flat(x=9, y=1)], ["x", "y", "z"])
    assert leaning["y"] - leaning["x"] == pytest.approx(math.log(9))
    # What weighs a branch as a whole stays as it was: n / sum of exp(-b) of x and y is that of z.
    assert 2 / (math.exp(-leaning["x"]) + math.exp(-leaning["y"])) == pytest.approx(math.exp(leaning["z"]))


def test_fitted_biases_make_the_right_labels_the_likeliest() -> None:
    chance = random.Random(0)
    labels = ["a", "b", "c"]
    rows: list[tuple[list[Parting], str]] = []
    for _ in range(200):
        right = chance.choice(labels)
        shares = {label: math.exp(chance.gauss(0, 0.5) + 2 * (label == right) + 3 * (label == "a")) for label in labels}
        rows.append(([flat(**shares)], right))
    biases = fitted(rows, labels)

    def share_right(biases: dict[str, float]) -> float:
        return sum(best(partings, biases) == right for partings, right in rows) / len(rows)

    assert share_right(dict.fromkeys(labels, 0.0)) < 0.5
    assert share_right(biases) > 0.95
    assert biases["a"] < biases["b"]


def test_where_the_model_knows_nothing_nothing_is_fitted() -> None:
    """It has the labels the wrong way round, so that taking its favour off makes more answers wrong."""
    rows = [([flat(a=8, b=1)], "a")] * 55 + [([flat(a=90, b=1)], "b")] * 45
    assert fitted(rows, ["a", "b"]) == {"a": 0, "b": 0}


def test_of_few_rows_little_is_learnt() -> None:
    few = fitted([([flat(a=1, b=1)], "a")], ["a", "b"])
    many = fitted([([flat(a=1, b=1)], "a")] * 50, ["a", "b"])
    assert 0 < few["a"] - few["b"] < many["a"] - many["b"] < 12


def test_biases_are_numbers_and_bounded_whatever_the_model_says() -> None:
    never = [Branch(labels=["a"], log_share=-math.inf), Branch(labels=["b"], log_share=0.0)]
    for biases in (
        usual([never], ["a", "b"]),
        agreed([[never], [never]], ["a", "b"]),
        fitted([([never], "a")] * 9, ["a", "b"]),
    ):
        assert all(math.isfinite(bias) and abs(bias) <= MAX_BIAS for bias in biases.values())


def test_texts_that_say_nothing_are_always_the_same_and_of_several_kinds() -> None:
    signs, first, labels, named = kinds(["x y", "z"])
    assert "N/A" in signs
    assert len(set(first)) == len(first) == 10
    assert labels == ["x y", "z"]
    assert named == ["It is about x y.", "It is about z."]
    assert [signs, first] == kinds(["other"])[:2]
