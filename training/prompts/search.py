"""Finds the best text prompt for a task: the serving engine and grammars score candidates on validation rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from guideway.schemas.calibration import Calibration
from guideway.schemas.generation import Generation
from guideway.schemas.output import OutputRule
from guideway.training.data.examples import Example
from guideway.training.evaluation.evaluator import Evaluator, Subject, answer_labels
from guideway.training.evaluation.scoring import Answer, Evaluation, main_figure
from guideway.training.prompts.candidates import PromptCandidate, candidates, question_for_proposals
from guideway.training.runs.events import PromptScored
from guideway.training.runs.task import TEXT_PROMPT, PromptSearch

_FIRST_SHARE: Final = 3
"""The first round uses one in so many validation rows, and keeps one in so many candidates, ..."""
_LEAST_FINALISTS: Final = 3
"""... but at least so many of them."""
_LEAST_ROWS: Final = 24


def search_prompts(
    evaluator: Evaluator,
    *,
    size: str,
    instruction: str,
    output: OutputRule,
    generation: Generation,
    examples: Sequence[Example],
    validation: Sequence[Example],
    calibration: Calibration | None = None,
    settings: PromptSearch,
    seed: int,
    metric: str = "",
    emit: Callable[[PromptScored], None] = lambda _: None,
) -> str:
    """The candidate with the best score; of equal ones the better calibrated, and of these the shortest.

    Two rounds (successive halving, https://arxiv.org/abs/1502.07943): all candidates on a third of the rows, then the
    best third of them on all rows. emit: gets each candidate once, with its last score.
    calibration: how serving calibrates the labels. metric: what the score is called; empty: as `main_figure` has it.

    Raises: Refusal as `Evaluator.evaluate` does, if the output rule cannot be satisfied.
    """
    rows = validation[: settings.validation_rows]
    proposals = _proposals(evaluator, examples, settings.own_proposals, seed)
    found = candidates(instruction, output, examples, proposals, settings=settings, seed=seed)

    def evaluate(one: PromptCandidate, on: Sequence[Example]) -> Evaluation:
        subject = Subject(
            label=TEXT_PROMPT, instructions=[one.text], output=output, generation=generation, calibration=calibration
        )
        return evaluator.evaluate(subject, on, latency=False)

    finalists, last = _in_two_rounds(found, rows, evaluate)
    sure = {one: calibrated_accuracy(last[one].answers, rows[: last[one].rows], answer_labels(output)) for one in found}
    best = max(finalists, key=lambda one: (last[one].score.value, sure[one] or 0.0, -len(one.text)))
    for one in found:
        emit(
            PromptScored(
                at=time.time(),
                size=size,
                prompt=one.text,
                source=one.source,
                metric=metric or main_figure(output),
                value=last[one].score.value,
                rows=last[one].rows,
                calibrated=sure[one],
                chosen=one == best,
            )
        )
    return best.text


def _in_two_rounds(
    found: Sequence[PromptCandidate],
    rows: Sequence[Example],
    evaluate: Callable[[PromptCandidate, Sequence[Example]], Evaluation],
) -> tuple[list[PromptCandidate], dict[PromptCandidate, Evaluation]]:
    """(candidates of the last round, each candidate's last evaluation)"""
    few = rows[: max(_LEAST_ROWS, len(rows) // _FIRST_SHARE)]
    first = {one: evaluate(one, few) for one in found}
    finalists = sorted(found, key=lambda one: -first[one].score.value)
    finalists = finalists[: max(_LEAST_FINALISTS, len(found) // _FIRST_SHARE)]
    # The task's own is always in the last round, so that its author sees it beside the best.
    finalists += [one for one in found if one.source == "task" and one not in finalists]
    return finalists, first | {one: evaluate(one, rows) for one in finalists}


def calibrated_accuracy(answers: Sequence[Answer], rows: Sequence[Example], labels: Sequence[str]) -> float | None:
    """The accuracy if each label's share is divided by its mean share over all rows; None if shares are unknown.

    This is batch calibration (Zhou et al. 2023, https://arxiv.org/abs/2309.17249). The means need no right answers.
    """
    known = [
        (answer.label_shares, row.answer) for answer, row in zip(answers, rows, strict=True) if answer.label_shares
    ]
    if not known:
        return None
    means = [sum(column) / len(known) for column in zip(*(shares for shares, _ in known), strict=True)]
    lifted = [[share / (mean or 1.0) for share, mean in zip(shares, means, strict=True)] for shares, _ in known]
    right = [labels[lift.index(max(lift))] == answer for lift, (_, answer) in zip(lifted, known, strict=True)]
    return sum(right) / len(rows)


def _proposals(evaluator: Evaluator, examples: Sequence[Example], count: int, seed: int) -> list[str]:
    """Instructions that the model writes, each from other examples."""
    if not count:
        return []
    questions = [question_for_proposals(examples, seed=seed + number) for number in range(count)]
    drawn = Generation(max_tokens=60, temperature=0.7, top_p=0.95, samples=2, seed=seed)
    return [text for samples in evaluator.generate("", questions, drawn) for text in samples]
