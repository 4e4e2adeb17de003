"""The parts of a run that serve instead of training: the best text prompt, and the comparison at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from guideway.schemas.calibration import automatic
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.training.evaluation.agreement import as_agreement, name_of, without_rows
from guideway.training.evaluation.comparison import compare, scored_events
from guideway.training.evaluation.evaluator import Evaluator, Subject
from guideway.training.evaluation.report import keep_evaluation, kept_evaluations
from guideway.training.evaluation.scoring import Evaluation, joined, main_figure
from guideway.training.prompts.search import search_prompts
from guideway.training.runs.begin import Begun
from guideway.training.runs.events import LeftOut, RunEvent, Scoring, fold_name
from guideway.training.runs.folder import Run
from guideway.training.runs.interruption import Interrupted, ShouldEnd
from guideway.training.runs.task import BARE, PRESENT, TEXT_PROMPT
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.to_engine import Artefact

_TELL_EVERY_S: Final = 5

PresentOf = Callable[[str], Subject | None]
"""Model size → the endpoint as it is now; None if there is none. Raises: Refusal if its guidance is at fault."""


def best_prompt(
    base: BaseModel,
    model: Model,
    begun: Begun,
    size: str,
    tell: Callable[[RunEvent], None],
    should_end: ShouldEnd,
) -> str:
    """The text prompt with the best score on the validation rows. Raises: Interrupted if `should_end` says so."""
    task, examples = begun.run.task, begun.examples
    return search_prompts(
        _evaluator(base, model, size, tell, should_end),
        size=size,
        instruction=examples.instruction,
        output=task.output,
        generation=task.generation,
        examples=examples.train,
        validation=examples.validation,
        calibration=automatic(task.output, is_taught=task.retrieval is not None),
        settings=task.prompt_search,
        seed=task.schedule.seed,
        metric=name_of(main_figure(task.output), known_answers=_is_all_known(begun.run)),
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
    should_end: ShouldEnd,
) -> None:
    """Evaluate the bare model, the best text prompt, every method and the present endpoint; keep the results and tell.

    After an interruption nothing is evaluated twice, except the endpoint, which may have changed. An endpoint at fault
    is left out and that is told: it must not prevent its own replacement.

    Raises: Interrupted if `should_end` says so.
    """
    evaluator = _evaluator(base, model, size, tell, should_end)
    rows = begun.examples.eval
    kept = {one.label: one for one in kept_evaluations(begun.folder, size)}
    evaluations = []
    for subject in (*references(begun, prompt), *methods(begun, size)):
        if (evaluation := kept.get(subject.label)) is None:
            evaluation = _told(begun, evaluator.evaluate(subject, rows))
            keep_evaluation(begun.folder, size, evaluation)
        evaluations.append(evaluation)
    try:
        if (subject_now := present(size)) is not None and _is_archived(begun):
            raise Refusal(
                FailureCode.INVALID_DATA,
                "archived answers may be its own, and it may have been trained on them: name rows with known answers "
                "in data.eval",
            )
        if subject_now is not None:
            evaluations.append(evaluator.evaluate(subject_now, rows))
            keep_evaluation(begun.folder, size, evaluations[-1])
    except Refusal as refusal:
        tell(LeftOut(at=time.time(), size=size, method=PRESENT, code=refusal.code.value, message=refusal.message))
    for event in scored_events(compare(evaluations), size=size, at=time.time()):
        tell(event)


def compare_folds(begun: Begun, size: str, present: PresentOf, tell: Callable[[RunEvent], None]) -> None:
    """Join the evaluations of the folds: each row is answered by a training that has not seen it. Keep and tell.

    Each fold has its own best text prompt. If that is the instruction, it has the answers of the bare model.
    """
    parts = [
        {one.label: one for one in kept_evaluations(begun.folder, fold_name(size, fold))}
        for fold in range(len(begun.examples.folds))
    ]
    labels = [BARE, *([TEXT_PROMPT] if any(TEXT_PROMPT in part for part in parts) else [])]
    labels += [method.label for method in begun.run.task.methods]
    evaluations = []
    for label in labels:
        of_label = [part.get(label) or part[BARE] for part in parts]
        whole = joined(label, begun.run.task.output, of_label)
        evaluations.append(whole if begun.run.is_of_known_answers else as_agreement(whole))
        keep_evaluation(begun.folder, size, evaluations[-1])
    code, message = "", ""
    try:
        if present(size) is not None:
            code = FailureCode.INVALID_DATA.value
            message = "it may have been trained on these rows, which are all that there are: name others in data.eval"
    except Refusal as refusal:
        code, message = refusal.code.value, refusal.message
    if message:
        tell(LeftOut(at=time.time(), size=size, method=PRESENT, code=code, message=message))
    for event in scored_events(compare(evaluations), size=size, at=time.time()):
        tell(event)


def _is_archived(begun: Begun) -> bool:
    """Whether the rows to report on are of an archive."""
    return begun.run.archived is not None and begun.run.task.data.eval is None


def _is_all_known(run: Run) -> bool:
    """Whether people gave the answers of all rows, also of those to learn from."""
    return run.archived is None or run.archived.taken.corrected == run.archived.taken.rows


def _told(begun: Begun, evaluation: Evaluation) -> Evaluation:
    """The evaluation as it is kept: of archived rows without what stands in them, and without a claim to be right."""
    if not _is_archived(begun):
        return evaluation
    kept = without_rows(evaluation, begun.examples.eval, begun.run.task.output)
    return kept if begun.run.is_of_known_answers else as_agreement(kept)


def _evaluator(
    base: BaseModel, model: Model, size: str, tell: Callable[[RunEvent], None], should_end: ShouldEnd
) -> Evaluator:
    told_at = time.monotonic()

    def progress(label: str, done: int, of: int) -> None:
        nonlocal told_at
        if should_end():
            raise Interrupted
        if time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = time.monotonic()
            tell(Scoring(at=time.time(), size=size, method=label, done=done, of=of))

    return Evaluator(base, max_context_tokens=model.max_context_tokens, progress=progress)


def references(begun: Begun, prompt: str) -> list[Subject]:
    """What a method must beat: the task's instruction alone, and the best text prompt if that is another. Both are
    calibrated as `guideway apply` calibrates an endpoint by default."""
    task, instruction = begun.run.task, begun.examples.instruction
    texts = {BARE: instruction} | ({TEXT_PROMPT: prompt} if prompt != instruction else {})
    return [
        Subject(
            label=label,
            instructions=[text] if text else [],
            output=task.output,
            generation=task.generation,
            calibration=automatic(task.output, is_taught=task.retrieval is not None),
        )
        for label, text in texts.items()
    ]


def methods(begun: Begun, size: str) -> list[Subject]:
    """The trained methods, each with the instruction of its training. They are not calibrated, as when published."""
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
