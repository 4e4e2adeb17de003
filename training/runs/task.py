"""What a team writes to have guidance trained: the manifest `task/v1`, one file for one run."""

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
"""What methods are compared against, and not called as; all but `bare` may be missing."""


class Columns(TaskPart, frozen=True, kw_only=True):
    """Which columns of the data are what. Without it: `text` and `label`, `prompt` and `completion`, or `messages`."""

    text: str
    """The name of the column with the input text."""
    answer: str
    """The name of the column with the answer that is right."""


class Data(TaskPart, frozen=True, kw_only=True):
    """The examples. Paths are relative to the task's file."""

    train: Annotated[str, Meta(min_length=1)]
    """A file of examples: JSONL, JSON, CSV or TSV."""
    eval: str | None = None
    """Rows that no training sees, on which everything is compared; without it, `eval_share` of the rows is kept out."""
    eval_share: Share = 0.2
    """Of the rows of `train`, where there is no `eval`."""
    folds: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Without `eval`: the rows are divided into so many parts, and each is reported on by a training on the others.
    None: 5 where there are fewer than 200 rows; 0: a share is kept out, however few they are."""
    group: str = ""
    """A column: rows with the same value in it, such as those of one customer, are all learnt from or all kept out."""
    validation_share: Share = 0.1
    """Of the rows of `train`: kept out to choose prompts and to end training. The comparison uses none of them."""
    max_validation_rows: Count = 200
    """However many rows `train` has."""
    format: Format | None = None
    """None: by the file's suffix."""
    encoding: str = "utf-8"
    """Of files without a byte order mark, for example `cp1252`."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """Rows with the text and the answer of another one."""
    columns: Columns | None = None
    """Which columns are what, where their names do not tell."""
    ignore_columns: list[str] = msgspec.field(default_factory=list)
    """Columns that are there and are not used; any other unknown column is refused."""
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
    """A step whose rows are longer together is run in pieces of at most so many positions, or of one row: gradients add
    up to those of one piece, and memory is bounded whatever the rows."""
    by_length: bool = True
    """Rows of like length go together, into steps and into pieces of a step, so that little padding is computed."""
    warm_up: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises to its highest; after it, a cosine down to nothing."""
    max_gradient_norm: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Longer gradients are made so long."""
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Of AdamW."""
    class_weights: Literal["auto", "balanced", "none"] = "auto"
    """Of choices and booleans. `balanced`: in the loss each label counts as much as any other, however few rows have
    it, up to ten times; `auto`: so where one has three times the rows of another."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 20261
    """Of everything that is drawn."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the frozen model; what is trained is float32."""
    evaluate_every: Count = 20
    """Steps between two looks at the validation rows."""
    checkpoint_every_s: Annotated[float, Meta(ge=0, le=1e6)] = 20.0
    """At most this much work is lost when a run is killed; 0: a checkpoint after every step."""


class StopRules(TaskPart, frozen=True, kw_only=True):
    """When training ends: the first that fires does it, and is reported."""

    max_steps: Count = 160
    """Of one method."""
    max_epochs: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """How often each row is used."""
    max_minutes: Annotated[float, Meta(gt=0, le=1e6)] | None = 15
    """Of one method; time spent before an interruption counts."""
    loss_below: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Validation loss."""
    patience: Count | None = 4
    """Evaluations one after the other without a lower validation loss."""
    least_improvement: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """What counts as lower."""


class PublishRule(TaskPart, frozen=True, kw_only=True):
    """Which method is published, and whether."""

    when: Literal["better", "always"] = "better"
    """`better`: only if its interval over the bare model's is above zero."""
    method: Name | None = None
    """None: that of the lowest validation loss."""


class PromptSearch(TaskPart, frozen=True, kw_only=True):
    """How text prompts are proposed and chosen, before anything is trained."""

    candidates: Annotated[int, Meta(ge=0, le=200)] = 12
    """0: the task's instruction is taken as it is."""
    validation_rows: Count = 100
    """That candidates are scored on."""
    few_shot: Annotated[int, Meta(ge=0, le=16)] = 4
    """Examples in a prompt, at most."""
    own_proposals: Annotated[int, Meta(ge=0, le=32)] = 4
    """Instructions that the model itself writes from examples."""


class Task(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="kind",
    tag="task/v1",
):
    """One run: an endpoint's examples, and what to try on them."""

    namespace: Name
    """Of the endpoint."""
    endpoint: Name
    """Its name; what is trained for it is called `ENDPOINT-METHOD`."""
    description: str = ""
    """For people."""
    model_sizes: Annotated[list[Name], Meta(min_length=1)]
    """Each method is trained for each of them."""
    models: str | None = None
    """A file or folder of model manifests, relative to the task's file; None: the catalogue's."""
    data: Data
    """The examples."""
    instruction: str = ""
    """The text prompt to begin with."""
    output: OutputRule
    """As the endpoint will have it; every answer of the examples must be such a result."""
    generation: Generation = Generation()
    """As the endpoint will have it; evaluation uses the same."""
    retrieval: RetrievalRule | None = None
    """As the endpoint will have it: every row is trained and scored with the passages that a worker would put in."""
    prompts: PromptSearch = PromptSearch()
    """How text prompts are looked for."""
    methods: list[Method] = msgspec.field(default_factory=lambda: [SoftPromptMethod()])
    """Empty: text prompts only."""
    schedule: Schedule = Schedule()
    """How training steps are made."""
    stop: StopRules = StopRules()
    """When training ends."""
    publish: PublishRule = PublishRule()
    """What is published of it."""

    def __post_init__(self) -> None:
        if self.namespace in names.RESERVED_NAMESPACES:
            raise ValueError(f"namespace {self.namespace!r} is reserved: choose another")
        # Otherwise it would be refused when all is trained, and published.
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
        """What a method's guidance is called in the catalogue."""
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
