"""Candidate text prompts: the task's own, templates for its output rule, examples, a model's proposals. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.training.data.examples import Example
from guideway.training.runs.events import PromptSource
from guideway.training.runs.task import PromptSearch

_EXAMPLE_CHARS: Final = 240
"""Longer texts are examples only if there are too few shorter ones."""
_PROPOSAL_CHARS: Final = 300
_ECHO: Final = re.compile(r"\binputs? (into|to) (its|their|the|an?) output", re.IGNORECASE)
"""Words of our question: a proposal with them says nothing about the task."""
_SHOWN: Final = 5
"""How many examples the model sees when it proposes an instruction."""
_NAMED: Final = 20
"""The most labels or fields that a template names."""


class PromptCandidate(msgspec.Struct, frozen=True):
    """A text prompt and its source."""

    text: str
    source: PromptSource


def candidates(
    instruction: str,
    rule: OutputRule,
    examples: Sequence[Example],
    proposals: Iterable[str],
    *,
    settings: PromptSearch,
    seed: int,
) -> list[PromptCandidate]:
    """At most `settings.candidates` different text prompts, the task's own instruction first.

    examples: training rows. proposals: instructions that the model wrote.
    """
    of_model = [PromptCandidate(text, "model") for text in map(cleaned, proposals) if text][: settings.own_proposals]
    shots = few_shot(instruction, rule, examples, most=settings.few_shot, seed=seed) if settings.few_shot else []
    own = [PromptCandidate(instruction, "task")] if instruction else [PromptCandidate("", "task")]
    written = [PromptCandidate(text, "template") for text in templates(instruction, rule)]
    found: dict[str, PromptCandidate] = {}
    # Examples and proposals come first; templates, which cost nothing, fill the rest.
    kept = max(0, settings.candidates - len(own) - len(of_model) - len(shots))
    for candidate in [*own, *written[:kept], *shots, *of_model]:
        found.setdefault(candidate.text, candidate)
    return list(found.values())[: settings.candidates]


def templates(instruction: str, rule: OutputRule) -> list[str]:
    """Instructions that name what the output rule allows, with and without the task's own before them."""
    asked = _asked(rule)
    lead = instruction.strip()
    combined = [f"{lead} {one}" for one in asked] if lead else []
    return [text for pair in zip(combined, asked, strict=True) for text in pair] if combined else asked


def few_shot(
    instruction: str, rule: OutputRule, rows: Sequence[Example], *, most: int, seed: int
) -> list[PromptCandidate]:
    """The instruction followed by examples: three selections of `most` rows, and one of half as many."""
    short = [row for row in rows if len(row.text) <= _EXAMPLE_CHARS] or sorted(rows, key=lambda row: len(row.text))[:20]
    lead = instruction.strip() or (_asked(rule) or [""])[0]
    found = []
    for number, size in enumerate((most, most, most, max(1, most // 2))):
        chosen = _balanced(short, size, random.Random(seed + number))
        shown = "\n".join(f"{_one_line(row.text)} -> {_one_line(row.answer)}" for row in chosen)
        if shown:
            found.append(PromptCandidate(f"{lead}\n{shown}".strip(), "few_shot"))
    return found


def question_for_proposals(rows: Sequence[Example], *, seed: int) -> str:
    """The question that makes the model write an instruction: examples, and which instruction leads to them."""
    short = [row for row in rows if len(row.text) <= _EXAMPLE_CHARS] or list(rows)
    chosen = _balanced(short, _SHOWN, random.Random(seed))
    shown = "\n".join(f"Input: {_one_line(row.text)}\nOutput: {_one_line(row.answer)}" for row in chosen)
    return f"{shown}\n\nWrite in one sentence the instruction that turns each input into its output."


def cleaned(proposal: str) -> str:
    """A proposed instruction without the words that models put around it; empty if nothing usable is left."""
    lines = [line.strip() for line in proposal.strip().splitlines() if line.strip()]
    text = lines[0] if lines else ""
    text = re.sub(
        r"^(?:\*\*|#+\s*)?(?:the\s+)?(?:instruction|task|prompt)s?\s*(?:is)?\s*:\s*(?:\*\*)?", "", text, flags=re.I
    )
    text = text.strip("\"'“”` *").strip()
    usable = 10 <= len(text) <= _PROPOSAL_CHARS and "->" not in text and not text.endswith(":")
    return text if usable and not _ECHO.search(text) else ""


def _asked(rule: OutputRule) -> list[str]:  # noqa: PLR0911 - one for each rule
    match rule:
        case Choice(labels):
            if len(labels) > _NAMED:
                return ["Answer with the label of the text.", "Classify the text. Answer with one label only."]
            some, listed = _either(labels), ", ".join(labels)
            return [
                f"Answer with {some}.",
                f"Classify the text as {some}.",
                f"Which of these fits the text: {listed}? Answer with one of them.",
                f"You sort texts. The labels are: {listed}. Answer with the label only.",
            ]
        case Boolean(spelling):
            true, false = spelling.split("/")
            return [
                f"Answer {true} or {false}.",
                f"Answer with {true} if it is so and with {false} if it is not.",
                f"Is it so? {true} or {false}?",
            ]
        case Number():
            return ["Answer with a number only.", "Which number is asked for? Answer with it and nothing else."]
        case WordLabels(labels):
            return [f"Label each word with {_either(labels[:_NAMED])}.", "Write each word, a slash and its label."]
        case Json(schema):
            fields = _field_names(schema)
            named = f" with the fields {', '.join(fields)}" if fields else ""
            return [
                f"Answer as JSON{named}.",
                f"Take the text apart into JSON{named}. Leave out what is not in the text.",
                f"Extract the parts of the text and write them as JSON{named}.",
            ]
        case Regex():
            return ["Answer in the form that is asked for, with nothing else."]
        case Text():
            return ["Answer in as few words as possible.", "Answer the question. Write the answer only."]
    assert_never(rule)


def _field_names(schema: dict[str, Any]) -> list[str]:
    properties = schema.get("properties")
    return [str(name) for name in properties][:_NAMED] if isinstance(properties, dict) else []


def _either(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"


def _balanced(rows: Sequence[Example], size: int, chance: random.Random) -> list[Example]:
    """`size` rows in random order, with the same number of each answer as far as there are enough."""
    by_answer: dict[str, list[Example]] = {}
    for row in rows:
        by_answer.setdefault(row.answer, []).append(row)
    groups = list(by_answer.values())
    for group in groups:
        chance.shuffle(group)
    chance.shuffle(groups)
    chosen: list[Example] = []
    while len(chosen) < size and any(groups):
        for group in groups:
            if group and len(chosen) < size:
                chosen.append(group.pop())
    chance.shuffle(chosen)
    return chosen


def _one_line(text: str) -> str:
    return " ".join(text.split())
