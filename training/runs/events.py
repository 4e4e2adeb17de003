"""What happens in a run, event by event: the lines of its events.jsonl, and the records of the events topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from guideway.schemas.retrieval import SetRef

StopRule = Literal["max_steps", "max_epochs", "max_minutes", "loss_below", "converged"]
"""What ended the training of one method."""
PromptSource = Literal["task", "template", "model", "few_shot"]
"""Where a text prompt comes from."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    at: float
    """Unix time in seconds."""


class _OfMethod(_Event, frozen=True, kw_only=True):
    size: str
    """A model size, or one of its folds: see `fold_name`."""
    method: str
    """The method's label in the task."""


class RunStarted(_Event, frozen=True, kw_only=True, tag="run_started"):
    """The data are read and checked; nothing is trained yet."""

    run: str
    address: str
    train_rows: int
    validation_rows: int
    eval_rows: int
    folds: int = 0
    """Where it is not 0: the rows reported on are all rows, each by a training on those of the other folds."""
    methods: list[str]
    sizes: list[str]
    fingerprints: dict[str, str] = {}
    """Model size → fingerprint of its base model."""
    class_weights: dict[str, float] = {}
    """Label → the weight of its rows in the loss; empty where all count alike."""
    sets: list[SetRef] = []
    """The versions of the retrieval sets from which the rows have their passages."""


class MethodStarted(_OfMethod, frozen=True, kw_only=True, tag="method_started"):
    """The trainable part stands on the frozen model."""

    trainable_parameters: int
    fingerprint: str
    """Of the base model."""
    initial_text: str = ""


class Resumed(_OfMethod, frozen=True, kw_only=True, tag="resumed"):
    """Training goes on from a checkpoint: what was done after `step` before is done again."""

    step: int


class Step(_OfMethod, frozen=True, kw_only=True, tag="step"):
    """One step of the optimiser."""

    step: int
    """From 1 on."""
    of: int
    """The last one, if no other rule fires."""
    loss: float
    """Mean over the answers' tokens of the step."""
    learning_rate: float
    tokens: int
    """Computed in this step, padding included."""
    tokens_per_s: float
    elapsed_s: float
    """Training time of this method so far, interruptions left out."""
    left_s: float
    """What is left until the last step, at the present speed."""


class Planned(_OfMethod, frozen=True, kw_only=True, tag="planned"):
    """There is not time for all steps that are wanted, or more than it seemed: the schedule is made for these."""

    step: int
    """At which this was seen."""
    last_step: int
    of: int
    """As many as the task wants."""


class Evaluated(_OfMethod, frozen=True, kw_only=True, tag="evaluated"):
    """A look at the validation rows."""

    step: int
    loss: float
    best: bool
    """Whether it is the lowest so far; the artefact is made of the best."""


class Stopped(_OfMethod, frozen=True, kw_only=True, tag="stopped"):
    """Training has ended, and the artefact is there."""

    rule: StopRule
    step: int
    best_step: int
    validation_loss: float
    """At `best_step`."""
    elapsed_s: float
    of: int = 0
    """Steps that the task wanted."""
    artefact_bytes: int
    peak_memory_bytes: int = 0
    """Of the training process since its start, model included."""


class PromptScored(_Event, frozen=True, kw_only=True, tag="prompt_scored"):
    """A candidate text prompt on the validation rows."""

    size: str
    prompt: str
    source: PromptSource
    metric: str
    value: float
    rows: int = 0
    """On how many rows; those that did badly on the first of them were not tried on the others."""
    calibrated: float | None = None
    """Accuracy if no label were favoured whatever the text; see `prompt_engineering.calibrated_accuracy`."""
    chosen: bool = False


class Scoring(_OfMethod, frozen=True, kw_only=True, tag="scoring"):
    """Something answers rows, to be scored: told once in a while. `method` is as in `Scored`."""

    done: int
    """Rows that have their answer."""
    of: int


class Scored(_OfMethod, frozen=True, kw_only=True, tag="scored"):
    """How something does on the evaluation rows, by the engine that serves.

    `method` is a method's label, or `bare`, `text-prompt` or `present` (the endpoint's version in the catalogue).
    """

    metric: str
    value: float
    low: float
    high: float
    """95 % interval."""
    rows: int
    over_bare: list[float] = []
    """[difference, low, high] against the bare model on the same rows, paired."""
    over_present: list[float] = []
    """The same against the endpoint's present version; empty if there is none."""


class LeftOut(_OfMethod, frozen=True, kw_only=True, tag="left_out"):
    """Something is at fault and not compared with; as `present`, what the endpoint has is about to be replaced."""

    code: str
    message: str


class RunEnded(_Event, frozen=True, kw_only=True, tag="run_ended"):
    """Everything asked for is done."""


class RunFailed(_Event, frozen=True, kw_only=True, tag="run_failed"):
    """The run cannot go on."""

    code: str
    message: str


class RunCancelled(_Event, frozen=True, kw_only=True, tag="run_cancelled"):
    """Somebody ended the run; it can be resumed."""


RunEvent = (
    RunStarted
    | MethodStarted
    | Resumed
    | Step
    | Planned
    | Evaluated
    | Stopped
    | PromptScored
    | Scoring
    | Scored
    | LeftOut
    | RunEnded
    | RunFailed
    | RunCancelled
)

EVENT: msgspec.json.Decoder[RunEvent] = msgspec.json.Decoder(RunEvent)


def fold_name(size: str, fold: int) -> str:
    """What a fold, from 0 on, is called in place of its model size: `SIZE/fold-1` is the first."""
    return f"{size}/fold-{fold + 1}"


def model_size_of(size: str) -> str:
    """The model size of a size or of a fold."""
    return size.partition("/")[0]


def as_it_stands(events: Iterable[RunEvent]) -> Iterator[RunEvent]:
    """The events without what was done again later: steps and evaluations after the point of a `Resumed`."""
    kept: list[RunEvent] = []
    for event in events:
        if isinstance(event, Resumed):
            kept = [one for one in kept if not _is_undone(one, event)]
        kept.append(event)
    return iter(kept)


def _is_undone(event: RunEvent, resumed: Resumed) -> bool:
    return (
        isinstance(event, Step | Planned | Evaluated)
        and (event.size, event.method) == (resumed.size, resumed.method)
        and event.step > resumed.step
    )
