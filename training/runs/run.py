"""Carries out a run: for each model size the best text prompt, each method's training, the comparison; then the report.

What is done already, its events say: a run that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.output import Boolean, Choice
from guideway.schemas.retrieval import SetRef
from guideway.training.data.examples import class_weights
from guideway.training.evaluation import comparing
from guideway.training.evaluation.report import write_report
from guideway.training.fitting.encoding import Encoder
from guideway.training.fitting.loop import train
from guideway.training.fitting.methods import trainable
from guideway.training.fitting.trainer import Trainer
from guideway.training.runs.begin import Begun
from guideway.training.runs.events import (
    MethodStarted,
    PromptScored,
    RunCancelled,
    RunEnded,
    RunEvent,
    RunFailed,
    RunStarted,
    Scored,
    Stopped,
    fold_name,
    size_of,
)
from guideway.training.runs.interruption import Interrupted, ShouldEnd, never
from guideway.training.runs.task import BARE, StopRules, Task
from guideway.training.runs.task_methods import Method, Prefix, PTuning, SoftPrompt
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout

if TYPE_CHECKING:
    from guideway.training.sets.context import RetrievalContext

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SHORT_TOKENS: Final = 256
"""Up to this length plain products are faster on a CPU than the fused kernel's backward pass; what they keep grows with
the square of the length."""


@dataclass(frozen=True)
class Machine:
    """Where a run is carried out."""

    model_cache: Path
    device: str = "cpu"


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

    should_end: asked before every piece of a step of training, and every step of the engine; if so, the run ends as
    cancelled, to be resumed, in training after a checkpoint.
    present: what the endpoint does now on a model size, to be compared with. context: of the task's retrieval rule.

    Raises: Refusal, after a `RunFailed`; Interrupted, after a `RunCancelled`.
    """

    def tell(event: RunEvent) -> None:
        begun.folder.append(event)
        # The folder is the record: that nobody listens any more, as behind a broken pipe, ends no run.
        with contextlib.suppress(OSError):
            emit(event)

    with begun.folder.locked():
        past = list(begun.folder.events())
        try:
            if any(isinstance(event, RunEnded) for event in past):
                context = None  # nothing is left to be done with rows
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
    """Encode every row for a model size; returns the fingerprint of its base model.

    Raises: Refusal for a row that the size cannot take, before any training.
    """
    virtual = max((_virtual_tokens(method) for method in begun.run.task.methods), default=0)
    base = load_model(model, machine, begun.run.task.schedule.dtype)
    encoder = _encoder(begun, base, model)
    for rows in (begun.examples.train, begun.examples.validation, begun.examples.eval):
        encoder.encode(rows, virtual_tokens=virtual)
    return base.fingerprint


def _with_context(begun: Begun, model: Model, machine: Machine, context: RetrievalContext | None) -> Begun:
    """The run with the passages that its rows have on this model: how many fit is a matter of its tokens."""
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
    """One model size of one run, or one fold of one."""

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

    def _load_to_serve(self) -> BaseModel:
        return self._load(self.model.dtype)

    def _load(self, dtype: str) -> BaseModel:
        """The base model that this run began with: what is compared, or gone on with, must stand on the same one."""
        gc.collect()  # the one before, whose hooks point at each other
        base = load_model(self.model, self.machine, dtype)
        began_with = _fingerprint(self.begun.folder.events(), size_of(self.size))
        if began_with == base.former_fingerprint:
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"the run in {self.begun.folder.path} began with a fingerprint of the former way of computing it, "
                "which did not see all that makes a model: begin anew in another folder with --out",
            )
        if began_with not in (None, base.fingerprint):
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"the weights behind model size {self.size} are not those that the run in {self.begun.folder.path} "
                "began with: put the old ones back, or begin anew in another folder with --out",
            )
        return base

    def _train(self, method: Method, prompt: str) -> None:
        task, folder = self.begun.run.task, self.begun.folder
        base = self._load(task.schedule.dtype)
        encoder = _encoder(self.begun, base, self.model)
        count = _virtual_tokens(method)
        rows = encoder.encode(self.begun.examples.train, virtual_tokens=count)
        validation = encoder.encode(self.begun.examples.validation, virtual_tokens=count)
        weights_of = _class_weights(self.begun)
        rows, validation = (
            [replace(made, weight=weights_of.get(row.answer, 1.0)) for made, row in zip(some, of, strict=True)]
            for some, of in ((rows, self.begun.examples.train), (validation, self.begun.examples.validation))
        )
        if self.machine.device == "cpu" and max(len(row.ids) for row in rows) + count <= SHORT_TOKENS:
            base.model.set_attn_implementation("eager")
        # Half of an example, which is what is left of a long prompt, is no good beginning.
        fits = len(base.tokenizer.encode(prompt, add_special_tokens=False)) <= count
        given = method.initial_text if isinstance(method, SoftPrompt | PTuning | Prefix) else ""
        begins_as = given or (prompt if fits else self.begun.run.instruction)
        weights = _weights(base.model)
        before = checksum(weights)
        torch.manual_seed(task.schedule.seed)
        artefact, checkpoint = folder.artefact(self.size, method.label), folder.checkpoint(self.size, method.label)
        with trainable(method, base, initial_text=begins_as, model_name=name_of(self.model.source)) as part:
            trainer = Trainer(
                part,
                rows,
                validation,
                schedule=task.schedule,
                stop=_rules(task.stop, method, self.begun.sharing),
                learning_rate=method.learning_rate,
            )
            if not checkpoint.is_file():
                self.tell(
                    MethodStarted(
                        at=time.time(),
                        size=self.size,
                        method=method.label,
                        trainable_parameters=sum(one.numel() for one in part.parameters.values()),
                        fingerprint=base.fingerprint,
                        initial_text=begins_as if count else "",
                    )
                )
            rule = train(
                trainer,
                size=self.size,
                method=method.label,
                file=checkpoint,
                emit=self.tell,
                should_end=self.should_end,
            )
            _replace_folder(artefact, part.save)
        if checksum(weights) != before:
            raise AssertionError("training has changed the base model's weights")
        position = trainer.position
        self.tell(
            Stopped(
                at=time.time(),
                size=self.size,
                method=method.label,
                rule=rule,
                step=position.step,
                best_step=position.validation.best_step,
                validation_loss=position.validation.best_loss,
                elapsed_s=position.elapsed_s,
                of=trainer.wanted.last_step,
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                artefact_bytes=(artefact / "adapter_model.safetensors").stat().st_size,
            )
        )
        checkpoint.unlink(missing_ok=True)


def _class_weights(begun: Begun) -> dict[str, float]:
    task = begun.run.task
    if not isinstance(task.output, Choice | Boolean):
        return {}
    return class_weights([row.answer for row in begun.examples.train], task.schedule.class_weights)


def _nothing(_: str) -> None:
    """There is no endpoint to compare a fold with: it may have been trained on its rows."""


def _rules(stop: StopRules, method: Method, sharing: int) -> StopRules:
    """What ends one training of a method, of which `sharing` share its time."""
    minutes = None if stop.max_minutes is None else stop.max_minutes / sharing
    return msgspec.structs.replace(stop, max_steps=method.max_steps or stop.max_steps, max_minutes=minutes)


def checksum(weights: Iterable[torch.Tensor]) -> str:
    """SHA-256 over the bytes of tensors, one after the other."""
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def name_of(source: str) -> str:
    """A base model's name for others to read: a hub name as it is, of a file or folder no more than its last part."""
    if source.startswith("package:") or source.endswith(".gguf"):
        return Path(source).stem
    return source if source.count("/") <= 1 and not source.startswith((".", "~", "/")) else Path(source).name


def _weights(model: Any) -> list[torch.Tensor]:
    """The tensors themselves: where PEFT puts modules around them, they stay these."""
    return [*model.parameters(), *model.buffers()]


def load_model(model: Model, machine: Machine, dtype: str) -> BaseModel:
    """The base model of a manifest. Raises: Refusal `guidance_wrong_model` if its weights are others than it says."""
    folder = base_model.prepare(model.source, machine.model_cache)
    base = base_model.load(folder, dtype=DTYPES[dtype], device=machine.device)
    if model.fingerprint == base.former_fingerprint:
        raise Refusal(
            FailureCode.GUIDANCE_WRONG_MODEL,
            f"model size {model.name} is declared with a fingerprint of the former way of computing it: apply its "
            f"manifest with {base.fingerprint}",
        )
    if model.fingerprint not in (None, base.fingerprint):
        raise Refusal(
            FailureCode.GUIDANCE_WRONG_MODEL,
            f"the weights behind model size {model.name} are not those of its manifest ({base.fingerprint[:19]}…, and "
            f"it says {(model.fingerprint or '')[:19]}…): put the right ones in place, or apply the manifest anew",
        )
    return base


def _encoder(begun: Begun, base: BaseModel, model: Model) -> Encoder:
    return Encoder(
        base,
        instruction=begun.examples.instruction,
        output=begun.run.task.output,
        max_tokens=model.max_context_tokens,
        answer_tokens=begun.run.task.generation.max_tokens,
    )


def _virtual_tokens(method: Method) -> int:
    return method.virtual_tokens if isinstance(method, SoftPrompt | PTuning | Prefix) else 0


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
        class_weights=_class_weights(begun),
        methods=[method.label for method in task.methods],
        sizes=task.model_sizes,
        fingerprints=fingerprints,
        sets=sets,
    )


def _fingerprint(past: Iterable[RunEvent], size: str) -> str | None:
    """Of the base model with which the run began for this size."""
    for event in past:
        if isinstance(event, RunStarted) and size in event.fingerprints:
            return event.fingerprints[size]
    return None


def _chosen_prompt(past: Iterable[RunEvent], size: str) -> str | None:
    chosen = [event for event in past if isinstance(event, PromptScored) and event.size == size and event.chosen]
    return chosen[-1].prompt if chosen else None


def _is_compared(past: Iterable[RunEvent], size: str, task: Task) -> bool:
    """Whether the comparison was told to its end: a process may have died between two of its events."""
    scored = {event.method for event in past if isinstance(event, Scored) and event.size == size}
    return scored >= {BARE, *(method.label for method in task.methods)}


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """`folder` as `write` fills it, whole or not at all."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    write(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
