"""The manifest `task/v1`, by which a team has guidance trained: one file for one run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from guideway.catalogue.documents.conversion import converted
from guideway.catalogue.documents.document import parse_documents
from guideway.catalogue.documents.faults import Fault, Faulty
from guideway.catalogue.documents.foreign import no_task
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Name
from guideway.schemas.output import OutputRule, check_output_rule
from guideway.schemas.retrieval import RetrievalRule
from guideway.training.data.records import Format
from guideway.training.runs.task_methods import Count, Method, SoftPromptMethod, TaskPart

FOLD: Final = re.compile(r"fold-\d+")
Share = Annotated[float, Meta(gt=0, lt=1)]
BARE: Final = "bare"
TEXT_PROMPT: Final = "text-prompt"
PRESENT: Final = "present"
REFERENCES: Final = (BARE, TEXT_PROMPT, PRESENT)
"""The references of a comparison. Only `bare` is always there. No method may have one of these names."""


class Columns(TaskPart, frozen=True, kw_only=True):
    """The columns of text and answer. By default `text` and `label`, `prompt` and `completion`, or `messages`."""

    text: str
    """The name of the column with the input text."""
    answer: str
    """The name of the column with the right answer."""


class Data(TaskPart, frozen=True, kw_only=True):
    """The examples. Paths are relative to the task's file."""

    train: Annotated[str, Meta(min_length=1)]
    """A file of examples: JSONL, JSON, CSV or TSV."""
    eval: str | None = None
    """A file of rows for the comparison, which no training uses. Without it, `eval_share` of `train` is kept out."""
    eval_share: Share = 0.2
    """The share of `train` to report on, if there is no `eval`."""
    folds: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Without `eval`: the rows are divided into so many parts, and a training on the other parts reports on each.
    None: 5 if there are fewer than 200 rows. 0: a share is kept out, however few rows there are."""
    group: str = ""
    """A column. Rows with the same value in it, such as those of one customer, are all trained on or all kept out."""
    validation_share: Share = 0.1
    """The share of `train` that is kept out to choose prompts and to end training. The comparison does not use it."""
    max_validation_rows: Count = 200
    """The most validation rows, however many rows `train` has."""
    format: Format | None = None
    """The format of the files. None: by the file's suffix."""
    encoding: str = "utf-8"
    """The encoding of files without a byte order mark, for example `cp1252`."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """What happens to rows with the same text and answer as another row."""
    columns: Columns | None = None
    """The columns of text and answer, if they have other names."""
    ignore_columns: list[str] = msgspec.field(default_factory=list)
    """Columns that are ignored. Any other unknown column is refused."""
    origin: str = ""
    """Source and licence of the data, for the model card."""

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise ValueError("folds is 1, which leaves nothing to learn from: set 0 for none, or 2 and more")
        if self.folds and self.eval is not None:
            raise ValueError("folds divides the rows of train, and eval names others: set one of the two")


class Schedule(TaskPart, frozen=True, kw_only=True):
    """How steps are made, for every method of the task."""

    rows_per_step: Annotated[int, Meta(ge=1, le=4096)] = 16
    """Examples that one step learns from."""
    tokens_at_once: Count = 1024
    """A longer step runs in pieces of at most so many positions, or of one row. The gradients are the same, and memory
    is bounded."""
    by_length: bool = True
    """Rows of similar length are put into the same step and piece, so that little padding is computed."""
    warm_up: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """The share of the steps in which the learning rate rises to its highest. Then it falls to 0 by a cosine."""
    max_gradient_norm: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Longer gradients are shortened to this norm."""
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """The weight decay of AdamW."""
    class_weights: Literal["auto", "balanced", "none"] = "auto"
    """For choices and booleans. `balanced`: each label has the same weight in the loss, so that a row of a rare label
    counts up to ten times as much. `auto`: balanced if one label has three times the rows of another."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 20261
    """The seed of everything that is drawn."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """The type of the frozen model's weights. The trained part is float32."""
    evaluate_every: Count = 20
    """Steps between two evaluations on the validation rows."""
    checkpoint_every_s: Annotated[float, Meta(ge=0, le=1e6)] = 20.0
    """Seconds of work that are lost at most when a run is killed. 0: a checkpoint after every step."""


class StopRules(TaskPart, frozen=True, kw_only=True):
    """When training ends. The first rule that fires ends it, and is reported."""

    max_steps: Count = 160
    """The most steps of one method."""
    max_epochs: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """How often each row is used, at most."""
    max_minutes: Annotated[float, Meta(gt=0, le=1e6)] | None = 15
    """The most minutes of one method; time before an interruption counts."""
    loss_below: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """A validation loss below this ends training."""
    patience: Count | None = 4
    """So many evaluations in a row without a lower validation loss end training."""
    least_improvement: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """The least decrease of the validation loss that counts as lower."""


class PublishRule(TaskPart, frozen=True, kw_only=True):
    """Which method is published, and on which condition."""

    when: Literal["better", "always"] = "better"
    """`better`: only if the whole interval of its difference to the bare model is above zero."""
    method: Name | None = None
    """The method to publish. None: the one with the lowest validation loss."""


class PromptSearch(TaskPart, frozen=True, kw_only=True):
    """How text prompts are proposed and chosen, before anything is trained."""

    candidates: Annotated[int, Meta(ge=0, le=200)] = 12
    """How many prompts are tried. 0: the task's instruction is used unchanged."""
    validation_rows: Count = 100
    """The most validation rows that score candidates."""
    few_shot: Annotated[int, Meta(ge=0, le=16)] = 4
    """The most examples in a prompt."""
    own_proposals: Annotated[int, Meta(ge=0, le=32)] = 4
    """How many instructions the model itself writes from examples."""


class Task(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="kind",
    tag="task/v1",
):
    """One run: an endpoint's examples, and the methods to try on them."""

    namespace: Name
    """The endpoint's namespace."""
    endpoint: Name
    """The endpoint's name. Guidance that is trained for it has the name `ENDPOINT-METHOD`."""
    description: str = ""
    """For people."""
    model_sizes: Annotated[list[Name], Meta(min_length=1)]
    """Each method is trained for each of these sizes."""
    models: str | None = None
    """A file or folder of model manifests, relative to the task's file; None: the catalogue's."""
    data: Data
    """The examples."""
    instruction: str = ""
    """The text prompt to begin with."""
    output: OutputRule
    """The endpoint's output rule. Every answer of the examples must fit it."""
    generation: Generation = Generation()
    """The endpoint's generation parameters. Evaluation uses the same."""
    retrieval: RetrievalRule | None = None
    """The endpoint's retrieval rule. Every row is trained and scored with the passages that a worker would put in."""
    prompts: PromptSearch = PromptSearch()
    """How text prompts are proposed and chosen."""
    methods: list[Method] = msgspec.field(default_factory=lambda: [SoftPromptMethod()])
    """The methods to train. Empty: only text prompts are tried."""
    schedule: Schedule = Schedule()
    """How training steps are made."""
    stop: StopRules = StopRules()
    """When training ends."""
    publish: PublishRule = PublishRule()
    """What is published of the run."""

    def __post_init__(self) -> None:
        if self.namespace in names.RESERVED_NAMESPACES:
            raise ValueError(f"namespace {self.namespace!r} is reserved: choose another")
        # Without this check it would be refused only when it is published, after all training.
        check_output_rule(self.output, self.generation.stop)
        if self.retrieval is not None and (
            self.retrieval.query or self.retrieval.filter or self.retrieval.request_sets
        ):
            raise ValueError(
                "retrieval.query, .filter and .request_sets need an event's fields, and rows have none: leave them out"
            )
        labels = [method.label for method in self.methods]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two methods are called {label!r}: give one of them a `name`")
            if label in REFERENCES or FOLD.fullmatch(label):
                what = "what methods are compared with" if label in REFERENCES else "a fold of the rows"
                raise ValueError(f"a method is called {label!r}, as {what}: choose another name")
            for size in self.model_sizes:
                if names.NAME.fullmatch(name := self.guidance_name(label, size)) is None:
                    raise ValueError(
                        f"the guidance would be called {name!r}, and 63 characters are the most: shorten it"
                    )
        if self.publish.method is not None and self.publish.method not in labels:
            raise ValueError(f"publish.method names {self.publish.method!r}, which is none of the methods")
        for size in self.model_sizes:
            if self.model_sizes.count(size) > 1:
                raise ValueError(f"model size {size!r} is named twice: name it once")

    @property
    def address(self) -> str:
        """The endpoint's: `/NAMESPACE/NAME`."""
        return names.address(self.namespace, self.endpoint)

    def guidance_name(self, label: str, size: str) -> str:
        """The name of a method's guidance in the catalogue."""
        suffix = "" if size == self.model_sizes[0] else f"-{size}"
        return f"{self.endpoint}-{label}{suffix}"

    def method(self, label: str) -> Method:
        """The method of this name. Raises: Refusal `invalid_setting`."""
        for method in self.methods:
            if method.label == label:
                return method
        known = ", ".join(method.label for method in self.methods) or "none"
        raise Refusal(FailureCode.INVALID_SETTING, f"the run has no method {label!r}; its methods are: {known}")


def read_task(file: Path) -> Task:
    """The task of a YAML, TOML or JSON file. Raises: Faulty, which is a Refusal `invalid_manifest`."""
    documents, faults = parse_documents(file)
    if len(documents) > 1:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{file} holds {len(documents)} documents: write one task in it")
    for document in documents:
        if why := no_task(document.value):
            faults.append(document.fault(why, ("kind",)))
            continue
        task, wrong = converted(document, Task)
        faults += wrong
        if not faults:
            assert isinstance(task, Task)
            return task
    raise Faulty(
        faults or [Fault(file=str(file), message="it holds no task: it is empty, or has nothing but comments")]
    )
