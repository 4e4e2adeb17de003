"""Two endpoints on the same inputs: the studio's figures, what changed, and a page that nobody can write into."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Text, WordLabels
from guideway.schemas.reply import Completed, Failed, Sample, Usage
from guideway.training.evaluation.metrics import Counts, paired_difference
from guideway.training.evaluation.scoring import Answer, evaluation_of
from guideway.training.replays.answers import DOUBTFUL, Asked, Given, Question, Side, given_of
from guideway.training.replays.comparison import Compared, compare_sides
from guideway.training.replays.distance import distance
from guideway.training.replays.report import page_of

MOOD = Choice(["glad", "sad"])


def question(now: OutputRule = MOOD, new: OutputRule | None = None) -> Question:
    return Question(
        address="/shop/mood", version=3, now=now, new=new or now, changes={"guidance": "shop/mood@2"}, source="archive"
    )


def given(side: Side, values: list[Any], **fields: Any) -> list[Given]:
    """None: no result."""
    return [
        Given(
            number=n,
            side=side,
            value=value,
            text="" if value is None else str(value),
            failure="text_too_long" if value is None else "",
            prompt_tokens=10 if side == "now" else 30,
            output_tokens=2,
            latency_ms=float(n),
            **fields,
        )
        for n, value in enumerate(values, 1)
    ]


def asked(count: int, answers: str = "") -> list[Asked]:
    known = {"g": "glad", "s": "sad"}
    return [
        Asked(number=n, id=f"id{n}", content=f"text {n}", answer=known.get(answers[n - 1 : n]))
        for n in range(1, count + 1)
    ]


def compared(now: list[Any], new: list[Any], answers: str = "", rule: OutputRule = MOOD) -> Compared:
    return compare_sides(question(rule), asked(len(now), answers), given("now", now), given("new", new))


def test_figures_are_the_studios_on_the_same_answers() -> None:
    right = "gs" * 40
    now = ["glad"] * 80
    new = ["glad", "sad"] * 30 + ["glad"] * 20
    made = compared(now, new, right)
    expected = ["glad" if one == "g" else "sad" for one in right]

    def studio(values: list[str]) -> Any:
        answers = [
            Answer(
                text=str(n),
                expected=want,
                given=got,
                counts=Counts.of_item(want == got),
                prompt_tokens=10,
                output_tokens=2,
            )
            for n, (want, got) in enumerate(zip(expected, values, strict=True))
        ]
        return evaluation_of("any", MOOD, answers, rows_per_s=1.0, latency=None)

    before, after = studio(now), studio(new)
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "answered"):
        figure = made.figure(name)
        assert figure is not None
        assert (figure.now, figure.new) == (before.figures[name], after.figures[name]), name
    assert made.score is not None
    assert made.score.difference == paired_difference(after.counts, before.counts)
    assert made.verdict.startswith("The new one is better: accuracy 0.500 → 0.875")


def test_agreement_takes_the_result_of_now_as_the_right_one() -> None:
    made = compared(["glad"] * 30 + ["sad"] * 10 + [None], ["glad"] * 20 + ["sad"] * 10 + [None] * 5 + ["sad"] * 6)
    assert made.agreement is not None
    assert made.agreement.value == 25 / 40, "the row without a result now has nothing to agree with"
    assert {(one.before, one.after): one.rows for one in made.shifts} == {
        ("glad", "glad"): 20,
        ("glad", "sad"): 10,
        ("sad", None): 5,
        ("sad", "sad"): 5,
        (None, "sad"): 1,
    }
    assert made.changed_rows == 16
    assert made.failures == {"now": {"text_too_long": 1}, "new": {"text_too_long": 5}}
    assert made.score is None
    assert "No right answers are known" in made.verdict


def test_a_label_none_is_not_a_row_without_a_result() -> None:
    rule = Choice(["none", "some"])
    made = compared(["none", None, "some"], ["none", "none", None], rule=rule)
    assert {(one.before, one.after): one.rows for one in made.shifts} == {
        ("none", "none"): 1,
        (None, "none"): 1,
        ("some", None): 1,
    }
    page = page_of(question(rule), made)
    assert page.count("<th>none</th>") == 2
    assert page.count("<th><em>no result</em></th>") == 2


def test_true_that_becomes_a_number_has_changed() -> None:
    rule = Json(schema={})
    made = compared([{"a": [True]}, {"a": [1]}], [{"a": [1]}, {"a": [1.0]}], rule=rule)
    assert [one.number for one in made.changed] == [1]
    assert made.changed[0].distance == 1


def test_means_are_of_rows_that_both_have_answered() -> None:
    made = compared(["glad", None, "sad"] * 10, ["glad", "sad", None] * 10)
    tokens = made.figure("tokens")
    assert tokens is not None
    assert tokens.difference is not None
    assert (tokens.now.value, tokens.new.value, tokens.difference.value) == (12.0, 32.0, 20.0)


def test_the_most_telling_row_is_first() -> None:
    now = [
        Given(number=1, side="now", value="glad", text="glad", probabilities={"glad": 0.51, "sad": 0.49}),
        Given(number=2, side="now", value="glad", text="glad", probabilities={"glad": 0.99, "sad": 0.01}),
        Given(number=3, side="now", value="sad", text="sad", probabilities={"glad": 0.4, "sad": 0.6}),
        Given(number=4, side="now", value="sad", text="sad", probabilities={"glad": 0.4, "sad": 0.6}),
    ]
    new = [
        Given(number=1, side="new", value="sad", text="sad", probabilities={"glad": 0.45, "sad": 0.55}),
        Given(number=2, side="new", value="sad", text="sad", probabilities={"glad": 0.02, "sad": 0.98}),
        Given(number=3, side="new", value="glad", text="glad", probabilities={"glad": 0.9, "sad": 0.1}),
        Given(number=4, side="new", value="sad", text="sad", probabilities={"glad": 0.4, "sad": 0.6}),
    ]
    made = compare_sides(question(), asked(4, "  s "), now, new)
    assert [(one.number, one.became) for one in made.changed] == [(3, "worse"), (2, ""), (1, "")]
    assert made.changed[1].distance == pytest.approx(0.97)
    (shift,) = [one for one in made.shifts if (one.before, one.after) == ("glad", "sad")]
    assert shift.sure_before == pytest.approx(0.75)
    assert shift.sure_after == pytest.approx((0.55 + 0.98) / 2)


@pytest.mark.parametrize(
    ("rule", "now", "new", "far"),
    [
        (Number(), 10, 5, 0.5),
        (Number(), -1, 1, 1.0),
        (Json(schema={}), {"a": 1, "b": 2}, {"a": 1, "b": 3}, 0.5),
        (WordLabels(["x", "y"]), [["a", "x"], ["b", "x"]], [["a", "x"], ["b", "y"]], 0.5),
        (Text(), "abcd", "abxy", 0.5),
        (Text(), "a" * 400 + "b", "a" * 400 + "c", 0.001),
        (Boolean(), True, False, 1.0),
        (Boolean(), True, True, 0.0),
    ],
)
def test_distances_of_values(rule: OutputRule, now: Any, new: Any, far: float) -> None:
    a, b = Given(number=1, side="now", value=now), Given(number=1, side="new", value=new)
    assert distance(rule, a, b) == pytest.approx(far)
    assert distance(rule, a, msgspec.structs.replace(b, failure="cancelled")) == 1.0


def test_other_labels_are_compared_and_other_types_are_not() -> None:
    rows = asked(3)
    wider = compare_sides(
        question(MOOD, Choice(["glad", "sad", "calm"])),
        rows,
        given("now", ["glad", "sad", "sad"]),
        given("new", ["glad", "calm", "sad"]),
    )
    assert wider.labels == ["glad", "sad", "calm"]
    assert wider.changed_rows == 1
    other = compare_sides(question(MOOD, Boolean()), rows, given("now", ["glad"] * 3), given("new", [True] * 3))
    assert other.agreement is None
    assert other.incomparable == "results of type choice cannot be compared with results of type boolean"


def test_a_right_answer_that_the_new_rule_lacks_gives_no_score_and_no_wrong_one() -> None:
    made = compare_sides(
        question(MOOD, Choice(["good", "bad"])),
        asked(2, "gs"),
        given("now", ["glad", "sad"]),
        given("new", ["good", "bad"]),
    )
    assert made.score is None
    assert all(not one.became for one in made.changed)


def test_answers_of_other_rows_are_a_bug_and_not_a_figure() -> None:
    with pytest.raises(ValueError, match="all rows"):
        compare_sides(question(), asked(2), given("now", ["glad"] * 2), given("new", ["glad"]))


def test_replies_become_lines() -> None:
    sample = Sample(
        value=None, text="sad", finish_reason="stop", probabilities={"sad": 0.5, "glad": 0.5}, doubtful=True
    )
    reply = Completed(
        id="1",
        namespace="shop",
        endpoint="mood",
        endpoint_version=1,
        samples=[sample],
        usage=Usage(prompt_tokens=5, output_tokens=1),
        guidance=[],
        model_fingerprint="",
    )
    assert given_of(reply, 1, "now", 2.0).failure == DOUBTFUL
    told = msgspec.structs.replace(sample, doubtful=False, value="sad")
    assert given_of(msgspec.structs.replace(reply, samples=[told]), 1, "now", 2.0).value == "sad"
    failed = Failed(
        id="1", namespace="shop", endpoint="mood", code=FailureCode.CANCELLED, message="why", retryable=False
    )
    assert (given_of(failed, 1, "new", 2.0).failure, given_of(failed, 1, "new", 2.0).message) == ("cancelled", "why")


def test_the_page_escapes_what_callers_labels_and_models_wrote() -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=1>"
    rule = Choice([bad, "sad"])
    asks = [Asked(number=1, id=bad, content={"text": bad}), Asked(number=2, id="2", content="\u202e\x00 fine")]
    made = compare_sides(question(rule), asks, given("now", [bad, "sad"]), given("new", ["sad", bad]))
    page = page_of(msgspec.structs.replace(question(rule), changes={"instruction": bad}, left_out={bad: 1}), made)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert page.startswith("<!doctype html>")


def test_a_page_without_labels_probabilities_or_answers() -> None:
    long = "word " * 400
    made = compare_sides(question(Text()), asked(2), given("now", ["a", long]), given("new", ["a", long + "x"]))
    page = page_of(question(Text()), made)
    assert "Which label" not in page
    assert "1 of 2, the most telling first" in page
    assert long not in page
