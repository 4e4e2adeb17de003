"""Trains one method of a run on one base model: from its encoded rows to its artefact in the run's folder."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from guideway.schemas.manifests import Model
from guideway.schemas.output import Boolean, Choice
from guideway.training.data.class_weights import class_weights
from guideway.training.data.examples import Example
from guideway.training.fitting.encoding import Encoded, Encoder
from guideway.training.fitting.loop import train
from guideway.training.fitting.methods import trainable
from guideway.training.fitting.trainer import Trainer
from guideway.training.runs.begin import Begun
from guideway.training.runs.events import MethodStarted, RunEvent, Stopped, StopRule
from guideway.training.runs.interruption import ShouldEnd
from guideway.training.runs.machine import published_model_name
from guideway.training.runs.task import StopRules
from guideway.training.runs.task_methods import Method, PrefixMethod, PTuningMethod, SoftPromptMethod, virtual_tokens
from guideway.workers.engine.model.base_model import BaseModel

SHORT_TOKENS: Final = 256
"""Up to this length plain products are faster on a CPU than the fused kernel's backward pass. Their memory grows with
the square of the length."""


def train_method(
    method: Method,
    base: BaseModel,
    begun: Begun,
    *,
    size: str,
    model: Model,
    device: str,
    prompt: str,
    tell: Callable[[RunEvent], None],
    should_end: ShouldEnd,
) -> None:
    """Train `method`, from its checkpoint if there is one, and write its artefact into the run's folder.

    size: the model size, or the name of a fold, for folders and events. prompt: the best text prompt, which virtual
    tokens begin as.

    Raises: Refusal if the method does not fit the model or the rows; Interrupted, after a checkpoint.
    """
    schedule, folder = begun.run.task.schedule, begun.folder
    count = virtual_tokens(method)
    rows, validation = _encoded(begun, encoder_for(begun, base, model), count)
    if device == "cpu" and max(len(row.ids) for row in rows) + count <= SHORT_TOKENS:
        base.model.set_attn_implementation("eager")
    begins_as = _initial_text(method, base, begun, prompt)
    weights = _weights(base.model)
    before = checksum(weights)
    torch.manual_seed(schedule.seed)
    artefact, checkpoint = folder.artefact(size, method.label), folder.checkpoint(size, method.label)
    with trainable(method, base, initial_text=begins_as, model_name=published_model_name(model.source)) as part:
        trainer = Trainer(
            part,
            rows,
            validation,
            schedule=schedule,
            stop=_rules(begun.run.task.stop, method, begun.sharing),
            learning_rate=method.learning_rate,
        )
        if not checkpoint.is_file():
            parameters = sum(one.numel() for one in part.parameters.values())
            tell(_started(size, method.label, parameters, base, begins_as if count else ""))
        rule = train(trainer, size=size, method=method.label, file=checkpoint, emit=tell, should_end=should_end)
        _replace_folder(artefact, part.save)
    if checksum(weights) != before:
        raise AssertionError("training has changed the base model's weights")
    tell(_stopped(trainer, rule, artefact, size, method.label))
    checkpoint.unlink(missing_ok=True)


def _encoded(begun: Begun, encoder: Encoder, count: int) -> tuple[list[Encoded], list[Encoded]]:
    """(rows to learn from, rows to validate on), with the weights of their labels and room for `count` tokens."""
    rows = encoder.encode(begun.examples.train, virtual_tokens=count)
    validation = encoder.encode(begun.examples.validation, virtual_tokens=count)
    weight_of = class_weights_of(begun)

    def weighted(encoded: list[Encoded], examples: list[Example]) -> list[Encoded]:
        return [
            replace(made, weight=weight_of.get(row.answer, 1.0)) for made, row in zip(encoded, examples, strict=True)
        ]

    return weighted(rows, begun.examples.train), weighted(validation, begun.examples.validation)


def _initial_text(method: Method, base: BaseModel, begun: Begun, prompt: str) -> str:
    """The method's own text, else the prompt if the virtual tokens can hold all of it, else the instruction."""
    # A long prompt would be cut in the middle of an example, and that is no good beginning.
    fits = len(base.tokenizer.encode(prompt, add_special_tokens=False)) <= virtual_tokens(method)
    given = method.initial_text if isinstance(method, SoftPromptMethod | PTuningMethod | PrefixMethod) else ""
    return given or (prompt if fits else begun.run.instruction)


def _started(size: str, label: str, trainable_parameters: int, base: BaseModel, initial_text: str) -> MethodStarted:
    return MethodStarted(
        at=time.time(),
        size=size,
        method=label,
        trainable_parameters=trainable_parameters,
        fingerprint=base.fingerprint,
        initial_text=initial_text,
    )


def _stopped(trainer: Trainer, rule: StopRule, artefact: Path, size: str, label: str) -> Stopped:
    position = trainer.position
    return Stopped(
        at=time.time(),
        size=size,
        method=label,
        rule=rule,
        step=position.step,
        best_step=position.validation.best_step,
        validation_loss=position.validation.best_loss,
        elapsed_s=position.elapsed_s,
        of=trainer.wanted.last_step,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        artefact_bytes=(artefact / "adapter_model.safetensors").stat().st_size,
    )


def class_weights_of(begun: Begun) -> dict[str, float]:
    """Label → the weight of its rows in the loss; empty if all rows count the same."""
    task = begun.run.task
    if not isinstance(task.output, Choice | Boolean):
        return {}
    return class_weights([row.answer for row in begun.examples.train], task.schedule.class_weights)


def _rules(stop: StopRules, method: Method, sharing: int) -> StopRules:
    """The stop rules of one training of a method, if `sharing` trainings share its time."""
    minutes = None if stop.max_minutes is None else stop.max_minutes / sharing
    return msgspec.structs.replace(stop, max_steps=method.max_steps or stop.max_steps, max_minutes=minutes)


def encoder_for(begun: Begun, base: BaseModel, model: Model) -> Encoder:
    """The encoder of a run's rows for a base model."""
    return Encoder(
        base,
        instruction=begun.examples.instruction,
        output=begun.run.task.output,
        max_tokens=model.max_context_tokens,
        answer_tokens=begun.run.task.generation.max_tokens,
    )


def checksum(weights: Iterable[torch.Tensor]) -> str:
    """The SHA-256 of the bytes of all tensors in order, in hex."""
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _weights(model: Any) -> list[torch.Tensor]:
    """The model's tensors. They stay the same objects when PEFT wraps modules around them."""
    return [*model.parameters(), *model.buffers()]


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace `folder` by what `write` makes, as a whole."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    write(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
