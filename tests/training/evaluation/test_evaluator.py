"""Evaluation runs what serves: the engine, its grammars, its guidance, and the reading of results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.training.conftest import ROOT

from guideway.schemas.calibration import Calibration, labels_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Text, WordLabels
from guideway.training.data.examples import Example
from guideway.training.evaluation.comparison import compare
from guideway.training.evaluation.evaluator import Evaluator, Subject, _request
from guideway.training.evaluation.metrics import Counts
from guideway.training.evaluation.scoring import Answer
from guideway.training.prompts.search import calibrated_accuracy, search_prompts
from guideway.training.runs.events import PromptScored
from guideway.training.runs.task import PromptSearch
from guideway.workers.calibration.calibrating import asked, made_of
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Admit, Artefact

CHOICE = Choice(["yes", "no"])
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.fixture
def evaluator(tiny_base: BaseModel) -> Evaluator:
    return Evaluator(tiny_base, max_context_tokens=512, max_rows=8)


def rows_of(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(number, text, answer) for number, (text, answer) in enumerate(pairs, start=1)]


def test_every_output_rule_is_read_and_scored(evaluator: Evaluator) -> None:
    texts = [f"text {i}" for i in range(6)]
    for rule, answer in (
        (CHOICE, "yes"),
        (Boolean("1/0"), "1"),
        (Number(decimals=0), "7"),
        (WordLabels(["A", "B"]), "text/A {}/B"),
        (Json(SCHEMA), '{"ok":true,"n":1}'),
        (Text(), "anything"),
    ):
        subject = Subject(label="bare", output=rule, generation=Generation(max_tokens=60))
        rows = rows_of(*((text, answer.replace("{}", text[-1]) if "{}" in answer else answer) for text in texts))
        found = evaluator.evaluate(subject, rows, latency=rule is CHOICE)
        assert found.rows == 6
        assert len(found.answers) == 6
        assert 0 <= found.score.low <= found.score.value <= found.score.high <= 1
        assert all(a.failure or a.output_tokens for a in found.answers)
        if rule is CHOICE:
            assert found.latency is not None
            assert found.latency.median_ms > 0
            assert {a.given for a in found.answers} <= {"yes", "no"}
            assert all(0.5 <= (a.confidence or 0) <= 1 for a in found.answers)


def test_rows_at_fault_count_as_wrong(evaluator: Evaluator) -> None:
    subject = Subject(label="bare", output=Json(SCHEMA), generation=Generation(max_tokens=60))
    found = evaluator.evaluate(subject, rows_of(("short", '{"ok":true,"n":1}'), ("x" * 900, '{"ok":true,"n":1}')))
    assert found.failures == {"text_too_long": 1}
    assert found.figures["json_valid"].value == 0.5


def test_guidance_at_fault_is_refused_as_in_serving(evaluator: Evaluator, tmp_path: Path) -> None:
    missing = Artefact(name="a/b@1", form="lora", digest="sha256:" + "1" * 64, folder=str(tmp_path))
    with pytest.raises(Refusal) as caught:
        evaluator.evaluate(Subject(label="lora", artefacts=[missing], output=CHOICE), rows_of(("t", "yes")))
    assert caught.value.code in {FailureCode.GUIDANCE_DAMAGED, FailureCode.GUIDANCE_MISSING}


def test_the_shares_of_labels_are_those_of_the_grammar(evaluator: Evaluator) -> None:
    rows = rows_of(*((f"text {i}", "yes") for i in range(8)))
    subject = Subject(label="bare", output=CHOICE)
    answers = evaluator.evaluate(subject, rows, latency=False).answers
    for answer in answers:
        # One token each in this vocabulary.
        assert sum(answer.label_shares) == pytest.approx(1)
        best = max(answer.label_shares)
        assert CHOICE.labels[answer.label_shares.index(best)] == answer.given
        assert answer.confidence == pytest.approx(best, abs=1e-4)
    alike = Subject(label="bare", output=Choice(["yes", "yes sir"]))
    assert not any(answer.label_shares for answer in evaluator.evaluate(alike, rows, latency=False).answers)


@pytest.mark.parametrize("rule", [CHOICE, Boolean("1/0"), WordLabels(["A", "B"])], ids=lambda rule: type(rule).__name__)
def test_a_subject_is_calibrated_as_workers_calibrate_an_endpoint(tiny_base: BaseModel, rule: OutputRule) -> None:
    """The same engine, asked by the evaluator and as a worker asks it, comes to the same biases."""
    evaluator = Evaluator(tiny_base, max_context_tokens=512, max_rows=8)
    generation = Generation(max_tokens=100)
    calibration = Calibration(method="contextual")
    subject = Subject(
        label="bare", instructions=["Which?"], output=rule, generation=generation, calibration=calibration
    )
    request = _request(subject, Example(1, "a text", ""))

    ends = []
    for kind in asked(calibration, request):
        admits = [Admit(id=str(n), request=one, artefacts=[], partings=True) for n, one in enumerate(kind)]
        for admit in admits:
            evaluator._engine.add(admit)
        found: dict[str, Finished | Refusal] = {}
        while evaluator._engine.has_work:
            for end in evaluator._engine.step(0):
                match end:
                    case Finished():
                        found[end.id] = end
                    case Refused():
                        found[end.id] = Refusal(end.code, end.message)
        ends.append([found[admit.id] for admit in admits])
    biases = made_of(calibration, request, ends).biases
    assert evaluator._biases(subject) == pytest.approx(biases, abs=1e-4)
    assert set(biases) == set(labels_of(rule))


def test_texts_of_ones_own_take_the_bias_of_labels_off(evaluator: Evaluator) -> None:
    """What a random model favours is chance: with it taken off, none is favoured on the texts it was learnt from."""
    texts = [f"text {i}" for i in range(40)]
    rows = rows_of(*((text, "yes") for text in texts))
    means = []
    for calibration in (None, Calibration(method="unlabelled", texts=texts)):
        subject = Subject(label="bare", output=CHOICE, calibration=calibration)
        answers = evaluator.evaluate(subject, rows, latency=False).answers
        odds = [math.log(answer.label_shares[0] / answer.label_shares[1]) for answer in answers]
        means.append(sum(odds) / len(odds))
        assert {answer.given for answer in answers} <= {"yes", "no"}
    assert abs(means[1]) < 0.01 < abs(means[0])


def test_calibration_takes_away_what_a_prompt_favours() -> None:
    """All rows seem to be `yes`, but those that are less so are the others."""
    rows = rows_of(*((f"text {i}", "yes" if i % 2 else "no") for i in range(8)))
    shares = [[0.95, 0.05] if row.answer == "yes" else [0.8, 0.2] for row in rows]
    answers = [
        Answer(
            text=row.text,
            expected=row.answer,
            given="yes",
            counts=Counts.of_item(row.answer == "yes"),
            label_shares=share,
            prompt_tokens=1,
            output_tokens=1,
        )
        for row, share in zip(rows, shares, strict=True)
    ]
    assert calibrated_accuracy(answers, rows, CHOICE.labels) == 1.0
    assert calibrated_accuracy([], [], []) is None


def test_the_search_tries_every_source_and_keeps_one(evaluator: Evaluator) -> None:
    rows = rows_of(*((f"text {i}", "yes" if i % 2 else "no") for i in range(60)))
    events: list[PromptScored] = []
    found = search_prompts(
        evaluator,
        size="tiny",
        instruction="Say it.",
        output=CHOICE,
        generation=Generation(),
        examples=rows[:30],
        validation=rows[30:],
        settings=PromptSearch(few_shot=2),
        seed=1,
        emit=events.append,
    )
    assert [one.prompt for one in events if one.chosen] == [found]
    [value] = [one.value for one in events if one.chosen]
    assert value == max(one.value for one in events if one.rows == 30)
    assert {one.rows for one in events} == {24, 30}
    assert {"task", "template", "few_shot"} <= {one.source for one in events}
    assert all(one.calibrated is not None for one in events)


@pytest.mark.model
def test_on_the_real_model_guidance_is_told_from_chance(real_base: BaseModel) -> None:
    """The demo's soft prompt against the bare model, on the first rows of examples/data."""
    lines = (ROOT / "examples" / "data" / "uci_sentiment.jsonl").read_text("utf-8").split("\n")
    rows = [
        Example(n, row["text"], row["label"]) for n, row in enumerate(map(json.loads, filter(None, lines)), start=1)
    ]
    artefact = Artefact(
        name="reviews/sentiment@1",
        form="soft_prompt",
        digest="sha256:" + "5" * 64,
        folder=str(ROOT / "examples" / "demo" / "artefacts" / "sentiment-soft-prompt"),
    )
    evaluator = Evaluator(real_base, max_context_tokens=512)
    bare = Subject(
        label="bare",
        instructions=["Say whether the review is positive or negative."],
        output=Choice(["positive", "negative"]),
    )
    guided = Subject(label="soft-prompt", instructions=bare.instructions, artefacts=[artefact], output=bare.output)
    made = compare([evaluator.evaluate(bare, rows), evaluator.evaluate(guided, rows)])
    best = made.lines[1]
    assert best.verdict == "better than the bare model"
    assert best.evaluation.score.value > 0.85


def test_an_endpoint_that_weighs_its_labels_is_evaluated_by_its_probabilities(evaluator: Evaluator) -> None:
    """Also where labels share tokens; a doubtful answer is an answer; and the temperature follows."""
    labels = ["a one", "a two", "b"]
    rule = Choice(labels, probabilities=True, min_confidence=0.99, below="failed")
    rows = rows_of(*((f"text {i}", labels[i % 3]) for i in range(60)))
    found = evaluator.evaluate(
        Subject(label="bare", output=rule, generation=Generation(max_tokens=12)), rows, latency=False
    )
    assert not found.failures
    for answer in found.answers:
        assert sum(answer.label_shares) == pytest.approx(1)
        assert answer.confidence == pytest.approx(max(answer.label_shares))
        assert answer.given == labels[answer.label_shares.index(max(answer.label_shares))]
    assert found.softening is not None
    plain = Subject(label="bare", output=Choice(labels), generation=Generation(max_tokens=12))
    assert evaluator.evaluate(plain, rows, latency=False).softening is None
