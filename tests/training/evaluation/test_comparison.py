"""Subjects beside each other: on the same rows only, and with the interval of the difference."""

from __future__ import annotations

import pytest

from guideway.schemas.output import Choice
from guideway.training.evaluation.comparison import changed, compare, scored_events
from guideway.training.evaluation.metrics import Counts
from guideway.training.evaluation.scoring import Answer, Evaluation, evaluation_of

RULE = Choice(["a", "b"])


def evaluation(label: str, right: str, *, texts: str = "") -> Evaluation:
    """`right` has a character for each row: `1` where it is right."""
    answers = [
        Answer(
            text=text,
            expected="a",
            given="a" if one == "1" else "b",
            counts=Counts.of_item(one == "1"),
            log_probability=-0.2,
            prompt_tokens=9,
            output_tokens=1,
        )
        for one, text in zip(right, texts or map(str, range(len(right))), strict=True)
    ]
    return evaluation_of(label, RULE, answers, rows_per_s=1.0, latency=None)


def test_references_come_first_and_the_best_after_them() -> None:
    made = compare(
        [
            evaluation("lora", "1110" * 20),
            evaluation("soft-prompt", "1111" * 20),
            evaluation("present", "1100" * 20),
            evaluation("bare", "1000" * 20),
        ]
    )
    assert [line.label for line in made.lines] == ["bare", "present", "soft-prompt", "lora"]
    best = made.lines[2]
    assert best.verdict == "better than the bare model"
    assert best.over.keys() == {"bare", "present"}
    assert best.over["bare"].value == 0.75


def test_a_difference_within_chance_is_none() -> None:
    made = compare([evaluation("bare", "1100" * 4), evaluation("lora", "1100" * 3 + "1110")])
    lora = made.lines[1]
    assert lora.over["bare"].value > 0
    assert lora.verdict == "not told apart from the bare model"


def test_other_rows_do_not_compare() -> None:
    with pytest.raises(ValueError, match="same rows"):
        compare([evaluation("bare", "11", texts="xy"), evaluation("lora", "11", texts="xz")])
    with pytest.raises(ValueError, match="nothing"):
        compare([])


def test_events_tell_the_table() -> None:
    bare, lora = scored_events(compare([evaluation("lora", "11" * 30), evaluation("bare", "10" * 30)]), size="s", at=5)
    assert (bare.method, bare.value, bare.over_bare, bare.rows) == ("bare", 0.5, [], 60)
    assert lora.over_bare[0] == 0.5
    assert lora.low < lora.value
    assert lora.over_present == []


def test_changed_rows_are_those_that_came_right_or_went_wrong() -> None:
    found = changed(evaluation("bare", "1100"), evaluation("lora", "0110"), most=12)
    assert [(one.text, one.is_right) for one in found] == [("2", True), ("0", False)]
    assert (found[0].before, found[0].after) == ("b", "a")
    assert len(changed(evaluation("bare", "0" * 20), evaluation("lora", "1" * 20), most=12)) == 6
