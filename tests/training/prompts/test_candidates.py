"""Text prompts worth trying: no two alike, each from somewhere, never more than asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.training.data.examples import Example
from guideway.training.prompts.candidates import candidates, cleaned, few_shot, question_for_proposals, templates
from guideway.training.runs.task import PromptSearch

RULE = Choice(["good", "bad"])
ROWS = [Example(i, f"text number {i}\nwith a line", "good" if i % 4 else "bad") for i in range(1, 41)]


def test_the_own_instruction_comes_first_and_every_source_is_there() -> None:
    found = candidates(
        "Say which.", RULE, ROWS, ["Judge the text.", "Judge the text."], settings=PromptSearch(), seed=1
    )
    assert found[0].text == "Say which."
    assert len(found) <= 12
    assert len({one.text for one in found}) == len(found)
    assert Counter(one.source for one in found) == {"task": 1, "template": 5, "few_shot": 4, "model": 1}
    assert found == candidates(
        "Say which.", RULE, ROWS, ["Judge the text.", "Judge the text."], settings=PromptSearch(), seed=1
    )


@pytest.mark.parametrize("most", [1, 2, 7])
def test_never_more_than_asked_for(most: int) -> None:
    found = candidates("", RULE, ROWS, ["Judge the text."], settings=PromptSearch(candidates=most), seed=1)
    assert len(found) <= most
    assert found[0].source == "task"


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        (RULE, "good or bad"),
        (Choice([f"l{i}" for i in range(50)]), "label"),
        (Boolean("yes/no"), "yes or no"),
        (Number(), "number"),
        (WordLabels(["A", "B"]), "A or B"),
        (Json({"properties": {"street": {}, "town": {}}}), "street, town"),
        (Json({}), "JSON"),
        (Regex("[a-z]+"), "form"),
        (Text(), "few words"),
    ],
)
def test_templates_name_what_the_rule_allows(rule: OutputRule, word: str) -> None:
    assert word in templates("", rule)[0]
    assert templates("Do it.", rule)[0] == f"Do it. {templates('', rule)[0]}"


def test_examples_are_balanced_short_and_on_one_line() -> None:
    rows = [*ROWS, Example(99, "x" * 5000, "bad")]
    for candidate in few_shot("Say which.", RULE, rows, most=4, seed=3)[:3]:
        lead, *examples = candidate.text.split("\n")
        assert lead == "Say which."
        assert sorted(line.rpartition(" -> ")[2] for line in examples) == ["bad", "bad", "good", "good"]
        assert all(" with a line -> " in line for line in examples)
    assert few_shot("", RULE, [], most=4, seed=3) == []


@pytest.mark.parametrize(
    ("proposal", "text"),
    [
        ('"Classify the review."', "Classify the review."),
        ("Instruction: Classify the review.\nExamples follow", "Classify the review."),
        ("**Task:** Classify the review.", "Classify the review."),
        ("The instruction is: Classify the review.", "Classify the review."),
        ("ok", ""),
        ("The instruction that turns each input into its output is simple.", ""),
        ("a text -> a label, then", ""),
        ("x" * 400, ""),
        ("\n \n", ""),
    ],
)
def test_a_proposal_is_cleaned_or_left_out(proposal: str, text: str) -> None:
    assert cleaned(proposal) == text


def test_the_question_shows_examples_and_differs_by_seed() -> None:
    first, second = question_for_proposals(ROWS, seed=1), question_for_proposals(ROWS, seed=2)
    assert first.count("Input: ") == 5
    assert first != second
