"""The parts of a run that serve instead of train: the best text prompt, and the comparison of everything at its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Model
from guideway.training.begin import Begun
from guideway.training.comparison import compare, scored_events
from guideway.training.evaluation import Evaluator, Subject
from guideway.training.prompt_engineering import search
from guideway.training.report import keep_evaluation
from guideway.training.run_events import LeftOut, RunEvent
from guideway.training.task import BARE, PRESENT, TEXT_PROMPT
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.messages import Artefact

PresentOf = Callable[[str], Subject | None]
"""Model size → what the endpoint does there now; None if there is no such endpoint. Raises: Refusal of its guidance."""


def best_prompt(base: BaseModel, model: Model, begun: Begun, size: str, tell: Callable[[RunEvent], None]) -> str:
    """The text prompt that does best on the validation rows."""
    task, examples = begun.run.task, begun.examples
    return search(
        Evaluator(base, max_context_tokens=model.max_context_tokens),
        size=size,
        instruction=examples.instruction,
        output=task.output,
        generation=task.generation,
        examples=examples.train,
        validation=examples.validation,
        settings=task.prompts,
        seed=task.schedule.seed,
        emit=tell,
    )


def compare_all(
    base: BaseModel,
    model: Model,
    begun: Begun,
    size: str,
    prompt: str,
    present: PresentOf,
    tell: Callable[[RunEvent], None],
) -> None:
    """Evaluate the bare model, the best text prompt, the endpoint as it is and every method; keep, tell.

    An endpoint that is at fault is left out, and that is told: it must not stop its own replacement.
    """
    evaluator = Evaluator(base, max_context_tokens=model.max_context_tokens)
    rows = begun.examples.eval
    evaluations = [evaluator.evaluate(subject, rows) for subject in (*references(begun, prompt), *methods(begun, size))]
    try:
        if (subject := present(size)) is not None:
            evaluations.append(evaluator.evaluate(subject, rows))
    except Refusal as refusal:
        tell(LeftOut(at=time.time(), size=size, method=PRESENT, code=refusal.code.value, message=refusal.message))
    for evaluation in evaluations:
        keep_evaluation(begun.folder, size, evaluation)
    for event in scored_events(compare(evaluations), size=size, at=time.time()):
        tell(event)


def references(begun: Begun, prompt: str) -> list[Subject]:
    """What a method has to beat: the task's instruction alone, and the best text prompt if that is another."""
    task, instruction = begun.run.task, begun.examples.instruction
    texts = {BARE: instruction} | ({TEXT_PROMPT: prompt} if prompt != instruction else {})
    return [
        Subject(label=label, instructions=[text] if text else [], output=task.output, generation=task.generation)
        for label, text in texts.items()
    ]


def methods(begun: Begun, size: str) -> list[Subject]:
    """What was trained, each with the instruction that it was trained with."""
    task, instruction = begun.run.task, begun.examples.instruction
    return [
        Subject(
            label=method.label,
            instructions=[instruction] if instruction else [],
            artefacts=[
                Artefact(
                    name=f"{task.namespace}/{method.label}@1",
                    form=method.guidance_form,
                    digest=f"{begun.run.id}/{size}/{method.label}",
                    folder=str(begun.folder.artefact(size, method.label)),
                )
            ],
            output=task.output,
            generation=task.generation,
        )
        for method in task.methods
    ]
