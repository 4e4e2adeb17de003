"""The events of a run: the lines of its events.jsonl, and the records of the events topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from guideway.schemas.retrieval import SetRef
from guideway.training.data.archived import Taken

StopRule = Literal["max_steps", "max_epochs", "max_minutes", "loss_below", "converged"]
"""The rule that ended the training of one method."""
PromptSource = Literal["task", "template", "model", "few_shot"]
"""The source of a text prompt."""


class Softening(msgspec.Struct, frozen=True):
    """A temperature of the probabilities of labels, and what it does to the expected calibration error."""

    temperature: float
    before: float
    after: float
    """On rows that had no part in the temperature: each half of the rows is judged by that of the other half."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    at: float
    """Unix time in seconds."""


class _OfMethod(_Event, frozen=True, kw_only=True):
    size: str
    """A model size, or one of its folds: see `fold_name`."""
    method: str
    """The method's label in the task."""


class RunStarted(_Event, frozen=True, kw_only=True, tag="run_started"):
    """The data have been read and checked. Nothing is trained yet."""

    run: str
    address: str
    train_rows: int
    validation_rows: int
    eval_rows: int
    folds: int = 0
    """If not 0: all rows are reported on, each by a training on the other folds."""
    methods: list[str]
    sizes: list[str]
    fingerprints: dict[str, str] = {}
    """Model size → fingerprint of its base model."""
    class_weights: dict[str, float] = {}
    """Label → the weight of its rows in the loss; empty if all rows count the same."""
    sets: list[SetRef] = []
    """The versions of the retrieval sets that gave the rows their passages."""
    archived: Taken | None = None
    """What was taken of an archive; None: the rows are files'."""


class MethodStarted(_OfMethod, frozen=True, kw_only=True, tag="method_started"):
    """The trainable part is on the frozen model."""

    trainable_parameters: int
    fingerprint: str
    """The fingerprint of the base model."""
    initial_text: str = ""


class Resumed(_OfMethod, frozen=True, kw_only=True, tag="resumed"):
    """Training resumes from a checkpoint. What was done after `step` is done again."""

    step: int


class Step(_OfMethod, frozen=True, kw_only=True, tag="step"):
    """One step of the optimiser."""

    step: int
    """From 1 on."""
    of: int
    """The last step, if no other rule fires."""
    loss: float
    """The mean over the answer tokens of the step."""
    learning_rate: float
    tokens: int
    """Tokens computed in this step, padding included."""
    tokens_per_s: float
    elapsed_s: float
    """Training time of this method so far, without interruptions."""
    left_s: float
    """Time until the last step, at the present speed."""


class Planned(_OfMethod, frozen=True, kw_only=True, tag="planned"):
    """A new plan: the time does not allow all wanted steps, or allows more than it seemed."""

    step: int
    """The step at which the plan was made."""
    last_step: int
    of: int
    """The steps that the task wants."""


class Evaluated(_OfMethod, frozen=True, kw_only=True, tag="evaluated"):
    """An evaluation on the validation rows."""

    step: int
    loss: float
    best: bool
    """Whether the loss is the lowest so far. The artefact is made of the best step."""


class Stopped(_OfMethod, frozen=True, kw_only=True, tag="stopped"):
    """Training has ended, and the artefact is written."""

    rule: StopRule
    step: int
    best_step: int
    validation_loss: float
    """The loss at `best_step`."""
    elapsed_s: float
    of: int = 0
    """The steps that the task wanted."""
    artefact_bytes: int
    peak_memory_bytes: int = 0
    """The peak of the training process since its start, with the model."""


class PromptScored(_Event, frozen=True, kw_only=True, tag="prompt_scored"):
    """The score of a candidate text prompt on validation rows."""

    size: str
    prompt: str
    source: PromptSource
    metric: str
    value: float
    rows: int = 0
    """How many rows were used. Candidates with a low score on the first rows are not tried on the others."""
    calibrated: float | None = None
    """The accuracy without the labels' bias; see `training.prompts.search.calibrated_accuracy`."""
    chosen: bool = False


class Scoring(_OfMethod, frozen=True, kw_only=True, tag="scoring"):
    """Progress while rows are answered to be scored, from time to time. `method` is as in `Scored`."""

    done: int
    """Rows with an answer."""
    of: int


class Scored(_OfMethod, frozen=True, kw_only=True, tag="scored"):
    """The score of a method or a reference on the evaluation rows, by the serving engine.

    `method` is a method's label, or `bare`, `text-prompt` or `present` (the endpoint's version in the catalogue).
    """

    metric: str
    value: float
    low: float
    high: float
    """The upper end of the 95 % interval."""
    rows: int
    over_bare: list[float] = []
    """[difference, low, high] to the bare model on the same rows, paired."""
    over_present: list[float] = []
    """[difference, low, high] to the endpoint's present version; empty if there is none."""
    softening: Softening | None = None
    """The temperature of its labels' probabilities, where the task's output tells them."""


class LeftOut(_OfMethod, frozen=True, kw_only=True, tag="left_out"):
    """A fault excludes this method from the comparison. For `present` it does no harm: it is about to be replaced."""

    code: str
    message: str


class RunEnded(_Event, frozen=True, kw_only=True, tag="run_ended"):
    """The run is complete."""


class RunFailed(_Event, frozen=True, kw_only=True, tag="run_failed"):
    """The run cannot continue."""

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
    """The name of a fold, from 0 on, in place of its model size: `SIZE/fold-1` is the first."""
    return f"{size}/fold-{fold + 1}"


def model_size_of(size: str) -> str:
    """The model size of a size or of a fold's name."""
    return size.partition("/")[0]


def as_it_stands(events: Iterable[RunEvent]) -> Iterator[RunEvent]:
    """The events without the steps and evaluations that a later `Resumed` did again."""
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
