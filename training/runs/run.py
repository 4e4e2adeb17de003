"""Carries out a run: for each model size the best text prompt, each method's training, the comparison; then the report.

The run's events say what is done. A run that was killed continues from there.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import SetRef
from guideway.training.evaluation import comparing
from guideway.training.evaluation.report import write_report
from guideway.training.runs.begin import Begun
from guideway.training.runs.events import (
    PromptScored,
    RunCancelled,
    RunEnded,
    RunEvent,
    RunFailed,
    RunStarted,
    Scored,
    Stopped,
    fold_name,
    model_size_of,
)
from guideway.training.runs.interruption import Interrupted, ShouldEnd, never
from guideway.training.runs.machine import Machine, load_model, training_dtype
from guideway.training.runs.task import BARE, Task
from guideway.training.runs.task_methods import Method, virtual_tokens
from guideway.training.runs.train_method import class_weights_of, encoder_for, train_method
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout

if TYPE_CHECKING:
    from guideway.training.sets.context import RetrievalContext


def carry_out(
    begun: Begun,
    models: Mapping[str, Model],
    machine: Machine,
    *,
    emit: Callable[[RunEvent], None] = lambda _: None,
    should_end: ShouldEnd = never,
    present: comparing.PresentOf = lambda _: None,
    context: RetrievalContext | None = None,
) -> None:
    """Do what is not done yet. Every event goes to the run's folder and then to `emit`.

    should_end: asked before every piece of a training step and every step of the engine. If true, the run ends as
    cancelled, with a checkpoint if it is training, and can be resumed.
    present: model size → the endpoint as it is now, for the comparison. context: for the task's retrieval rule.

    Raises: Refusal, after a `RunFailed`; Interrupted, after a `RunCancelled`.
    """

    def tell(event: RunEvent) -> None:
        begun.folder.append(event)
        # The folder is the record: a broken pipe of a listener does not end the run.
        with contextlib.suppress(OSError):
            emit(event)

    with begun.folder.locked():
        past = list(begun.folder.events())
        try:
            if any(isinstance(event, RunEnded) for event in past):
                context = None  # no work with rows is left
            of_size = {size: _with_context(begun, model, machine, context) for size, model in models.items()}
            if not any(isinstance(event, RunStarted) for event in past):
                fingerprints = {size: check_rows(of_size[size], model, machine) for size, model in models.items()}
                tell(_started(begun, fingerprints, context.refs if context else []))
            for size, model in models.items():
                one = of_size[size]
                for fold in range(len(one.examples.folds)):
                    part = _Size(one.of_fold(fold), fold_name(size, fold), model, machine, tell, should_end, _nothing)
                    part.carry_out(past)
                _Size(one, size, model, machine, tell, should_end, present).carry_out(past)
                write_report(begun.folder)
        except Interrupted:
            tell(RunCancelled(at=time.time()))
            raise
        except Refusal as refusal:
            tell(RunFailed(at=time.time(), code=refusal.code.value, message=refusal.message))
            raise
        if not any(isinstance(event, RunEnded) for event in past):
            tell(RunEnded(at=time.time()))


def check_rows(begun: Begun, model: Model, machine: Machine) -> str:
    """Encode every row for a model size, before any training. Returns the fingerprint of its base model.

    Raises: Refusal for a row that does not fit the model.
    """
    virtual = max((virtual_tokens(method) for method in begun.run.task.methods), default=0)
    base = load_model(model, machine, training_dtype(model, begun.run.task.schedule.dtype))
    encoder = encoder_for(begun, base, model)
    try:
        for rows in (begun.examples.train, begun.examples.validation, begun.examples.eval):
            encoder.encode(rows, virtual_tokens=virtual)
    except Refusal as refusal:
        if begun.run.archived is None:
            raise
        hint = "archived rows cannot be changed, but data.archive.max_text_chars and data.archive.since leave some out"
        raise Refusal(refusal.code, f"{refusal.message}; {hint}") from None
    return base.fingerprint


def _with_context(begun: Begun, model: Model, machine: Machine, context: RetrievalContext | None) -> Begun:
    """The run with the rows' passages for this model: its tokenizer decides how many passages fit."""
    if context is None:
        return begun
    layout = PromptLayout(load_model(model, machine, model.dtype).tokenizer)
    rows = begun.examples
    return replace(
        begun,
        examples=replace(
            rows,
            train=context.for_rows(rows.train, layout),
            validation=context.for_rows(rows.validation, layout),
            eval=context.for_rows(rows.eval, layout),
        ),
    )


@dataclass(frozen=True)
class _Size:
    """One model size of a run, or one fold of it."""

    begun: Begun
    size: str
    model: Model
    machine: Machine
    tell: Callable[[RunEvent], None]
    should_end: ShouldEnd
    present: comparing.PresentOf

    def carry_out(self, past: Sequence[RunEvent]) -> None:
        task = self.begun.run.task
        prompt = _chosen_prompt(past, self.size)
        if prompt is None and not task.prompts.candidates:
            prompt = self.begun.run.instruction
        if prompt is None:
            prompt = comparing.best_prompt(
                self._load_to_serve(), self.model, self.begun, self.size, self.tell, self.should_end
            )
        for method in task.methods:
            if not any(isinstance(e, Stopped) and (e.size, e.method) == (self.size, method.label) for e in past):
                self._train(method, prompt)
        if _is_compared(past, self.size, task):
            return
        if self.begun.examples.folds:
            comparing.compare_folds(self.begun, self.size, self.present, self.tell)
        else:
            comparing.compare_all(
                self._load_to_serve(),
                self.model,
                self.begun,
                self.size,
                prompt,
                self.present,
                self.tell,
                self.should_end,
            )

    def _train(self, method: Method, prompt: str) -> None:
        train_method(
            method,
            self._load(training_dtype(self.model, self.begun.run.task.schedule.dtype)),
            self.begun,
            size=self.size,
            model=self.model,
            device=self.machine.device,
            prompt=prompt,
            tell=self.tell,
            should_end=self.should_end,
        )

    def _load_to_serve(self) -> BaseModel:
        return self._load(self.model.dtype)

    def _load(self, dtype: str) -> BaseModel:
        """The base model, which must be the one that this run began with. Raises: Refusal `guidance_wrong_model`."""
        gc.collect()  # frees the model before: its hooks refer to each other
        base = load_model(self.model, self.machine, dtype)
        began_with = _fingerprint(self.begun.folder.events(), model_size_of(self.size))
        if began_with == base.former_fingerprint:
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"the run in {self.begun.folder.path} began with a fingerprint of the former way of computing it, "
                "which left out parts of a model: begin again in another folder with --out",
            )
        if began_with not in (None, base.fingerprint):
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"the run in {self.begun.folder.path} began with other weights of model size {self.size}: put the old "
                "ones back, or begin again in another folder with --out",
            )
        return base


def _nothing(_: str) -> None:
    """No present endpoint for a fold: its guidance may have been trained on the fold's rows."""


def _started(begun: Begun, fingerprints: dict[str, str], sets: list[SetRef]) -> RunStarted:
    task, examples = begun.run.task, begun.examples
    return RunStarted(
        at=time.time(),
        run=begun.run.id,
        address=task.address,
        train_rows=len(examples.train),
        validation_rows=len(examples.validation),
        eval_rows=len(examples.eval),
        folds=len(examples.folds),
        class_weights=class_weights_of(begun),
        methods=[method.label for method in task.methods],
        sizes=task.model_sizes,
        fingerprints=fingerprints,
        sets=sets,
        archived=None if begun.run.archived is None else begun.run.archived.taken,
    )


def _fingerprint(past: Iterable[RunEvent], size: str) -> str | None:
    """The fingerprint of the base model with which the run began for this size; None if it has not begun."""
    for event in past:
        if isinstance(event, RunStarted) and size in event.fingerprints:
            return event.fingerprints[size]
    return None


def _chosen_prompt(past: Iterable[RunEvent], size: str) -> str | None:
    chosen = [event for event in past if isinstance(event, PromptScored) and event.size == size and event.chosen]
    return chosen[-1].prompt if chosen else None


def _is_compared(past: Iterable[RunEvent], size: str, task: Task) -> bool:
    """Whether the comparison has all its events: a process may have died between two of them."""
    scored = {event.method for event in past if isinstance(event, Scored) and event.size == size}
    return scored >= {BARE, *(method.label for method in task.methods)}
