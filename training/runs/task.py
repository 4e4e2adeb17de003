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
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.kinds.manifest import Name
from guideway.schemas.names.addresses import NAME, RESERVED_NAMESPACES, endpoint_address
from guideway.schemas.output import OutputRule, check_output_rule
from guideway.schemas.retrieval import RetrievalRule, named_twice
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import Count, Method, SoftPromptMethod, TaskPart

FOLD: Final = re.compile(r"fold-\d+")
FEW_SHOT: Final = 4
OWN_PROPOSALS: Final = 4
BARE: Final = "bare"
TEXT_PROMPT: Final = "text-prompt"
PRESENT: Final = "present"
REFERENCES: Final = (BARE, TEXT_PROMPT, PRESENT)
"""The references of a comparison. Only `bare` is always there. No method may have one of these names."""


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
    """The type of the frozen model's weights; one served in int8 is trained on in int8. The trained part is float32."""
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
    few_shot: Annotated[int, Meta(ge=0, le=16)] = FEW_SHOT
    """The most examples in a prompt. No row of an archive gets into one: prompts are kept longer than an archive."""
    own_proposals: Annotated[int, Meta(ge=0, le=32)] = OWN_PROPOSALS
    """How many instructions the model itself writes from examples; not from archived ones."""

    def check_without_rows(self) -> None:
        """Raises ValueError where somebody asks for rows in text prompts."""
        for name, count, usual in (
            ("few_shot", self.few_shot, FEW_SHOT),
            ("own_proposals", self.own_proposals, OWN_PROPOSALS),
        ):
            if count not in (0, usual):
                raise ValueError(
                    f"prompts.{name} puts rows into text prompts, and those are kept longer than an archive keeps its "
                    "rows: leave it out beside data.archive"
                )


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
    data: Annotated[Data, Meta(extra_json_schema={"anyOf": [{"required": ["train"]}, {"required": ["archive"]}]})]
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
        if self.namespace in RESERVED_NAMESPACES:
            raise ValueError(f"namespace {self.namespace!r} is reserved: choose another")
        if self.data.archive is not None:
            self.prompts.check_without_rows()
        # Without this check it would be refused only when it is published, after all training.
        check_output_rule(self.output, self.generation.stop)
        if self.retrieval is not None and (
            self.retrieval.query or self.retrieval.filter or self.retrieval.request_sets
        ):
            raise ValueError(
                "retrieval.query, .filter and .request_sets need an event's fields, and rows have none: leave them out"
            )
        if self.retrieval is not None and (why := named_twice(self.retrieval.sets)):
            raise ValueError(f"retrieval.sets: {why}")
        labels = [method.label for method in self.methods]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two methods are called {label!r}: give one of them a `name`")
            if label in REFERENCES or FOLD.fullmatch(label):
                what = "what methods are compared with" if label in REFERENCES else "a fold of the rows"
                raise ValueError(f"a method is called {label!r}, as {what}: choose another name")
            for size in self.model_sizes:
                if NAME.fullmatch(name := self.guidance_name(label, size)) is None:
                    raise ValueError(
                        f"the guidance would be called {name!r}, and 63 characters are the most: shorten it"
                    )
        if self.publish.method is not None and self.publish.method not in labels:
            raise ValueError(f"publish.method names {self.publish.method!r}, which is none of the methods")
        for size in self.model_sizes:
            if self.model_sizes.count(size) > 1:
                raise ValueError(f"model size {size!r} is named twice: name it once")

    @property
    def prompt_search(self) -> PromptSearch:
        """How text prompts are searched: without rows in them where rows are archived."""
        if self.data.archive is None:
            return self.prompts
        return msgspec.structs.replace(self.prompts, few_shot=0, own_proposals=0)

    @property
    def address(self) -> str:
        """The endpoint's: `/NAMESPACE/NAME`."""
        return endpoint_address(self.namespace, self.endpoint)

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
