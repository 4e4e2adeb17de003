"""Answers become figures, by what the output rule promises."""

from __future__ import annotations

from typing import Any

import pytest

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.training.evaluation.metrics import Counts
from guideway.training.evaluation.scoring import Answer, Evaluation, counts_of, evaluation_of, main_figure

RIGHT, WRONG = Counts(1, 0, 0), Counts(0, 1, 1)


@pytest.mark.parametrize(
    ("rule", "expected", "given", "counts"),
    [
        (Choice(["a", "b"]), "a", "a", RIGHT),
        (Choice(["a", "b"]), "a", "b", WRONG),
        (Choice(["a", "b"]), "a", None, WRONG),
        (Boolean(), False, False, RIGHT),
        (Boolean(), False, None, WRONG),
        (Number(), 7, 7.0, RIGHT),
        (Regex("[0-9]+"), "7", "07", WRONG),
        (Text(), "a  b", " a b", RIGHT),
        (Text(), "a b", "A b", WRONG),
        (WordLabels(["X", "Y"]), [["it", "X"], ["is", "Y"]], [["it", "X"], ["is", "X"]], Counts(1, 1, 1)),
        (WordLabels(["X", "Y"]), [["it", "X"], ["is", "Y"]], None, Counts(0, 2, 2)),
        (Json({}), {"a": 1, "b": 2}, {"a": 1, "c": 2}, Counts(1, 1, 1)),
        (Json({}), {"a": 1, "b": 2}, None, Counts(0, 0, 2)),
    ],
)
def test_items_are_counted_by_the_rule(rule: OutputRule, expected: Any, given: Any, counts: Counts) -> None:
    assert counts_of(rule, expected, given) == counts


def answer(rule: OutputRule, expected: Any, given: Any, *, failure: str = "", log_probability: float = -0.1) -> Answer:
    return Answer(
        text="t",
        expected=expected,
        given=given,
        failure=failure,
        counts=counts_of(rule, expected, given),
        log_probability=log_probability,
        prompt_tokens=20,
        output_tokens=2,
    )


def evaluated(rule: OutputRule, *pairs: tuple[Any, Any]) -> Evaluation:
    answers = [answer(rule, e, g, failure="" if g is not None else "output_incomplete") for e, g in pairs]
    return evaluation_of("lora", rule, answers, rows_per_s=5.0, latency=None)


def test_labels_have_accuracy_macro_f1_and_a_table() -> None:
    found = evaluated(Choice(["a", "b"]), ("a", "a"), ("a", "b"), ("b", "b"), ("b", None))
    assert found.main == "accuracy"
    assert found.score.value == 0.5
    assert found.figures["macro_f1"].value == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert found.confusion is not None
    assert found.confusion.rows == [[1, 1, 0], [0, 1, 1]]
    assert found.failures == {"output_incomplete": 1}
    assert found.figures["answered"].value == 0.75
    assert found.calibration is not None
    assert found.calibration.error == pytest.approx(0.405, abs=1e-3)


def test_truth_values_have_a_table_of_their_spelling() -> None:
    found = evaluated(Boolean("yes/no"), (True, True), (False, True))
    assert found.confusion is not None
    assert found.confusion.labels == ["true", "false"]
    assert found.confusion.rows == [[1, 0, 0], [1, 0, 0]]


def test_json_has_field_f1_validity_and_exact_match() -> None:
    found = evaluated(Json({}), ({"a": 1, "b": 2}, {"a": 1, "b": 3}), ({"a": 1}, {"a": 1}), ({"a": 1}, None))
    assert found.main == "field_f1"
    assert found.score.value == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found.figures["json_valid"].value == pytest.approx(2 / 3)
    assert found.figures["exact_match"].value == pytest.approx(1 / 3)
    assert found.confusion is None


def test_every_form_has_a_main_figure() -> None:
    rules: list[OutputRule] = [Choice(["a"]), Boolean(), Number(), Regex("a"), Text(), WordLabels(["X"]), Json({})]
    assert [main_figure(rule) for rule in rules] == [
        "accuracy",
        "accuracy",
        "exact_match",
        "exact_match",
        "exact_match",
        "word_accuracy",
        "field_f1",
    ]
