"""What the catalogue keeps: endpoints, guidance, models, and all other kinds. Each applied change is a new version."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.calibration import CalibrationRule
from guideway.schemas.generation import Generation, RequestGeneration
from guideway.schemas.input import MAX_MESSAGE_CHARS, InputRule
from guideway.schemas.kinds.calibrated import Calibrated
from guideway.schemas.kinds.manifest import Digest, Grantee, Manifested, Name, open_to
from guideway.schemas.kinds.model_shape import ModelShape
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import RetrievalSet, SetAlias
from guideway.schemas.kinds.router import Router
from guideway.schemas.kinds.shadow import Shadow
from guideway.schemas.kinds.targets import MAX_WEBHOOKS, ArchiveRule, Target, TargetName, Webhook, WebhookUse
from guideway.schemas.names.addresses import RESERVED_ENDPOINTS, endpoint_address
from guideway.schemas.output import OutputRule, WordLabels, doubtful_target
from guideway.schemas.request import MAX_SCALE
from guideway.schemas.retrieval import GuidanceName, GuidanceUse, RetrievalRule, is_filterable

TrainedForm = Literal["soft_prompt", "prefix", "lora", "ia3", "inserted_layer"]
"""Guidance that is an artefact: a folder that PEFT saved, or for `inserted_layer` guideway's studio."""


class Endpoint(Manifested, frozen=True, kw_only=True, tag="endpoint/v1"):
    """A named task in a namespace."""

    model_size: Name
    """The name of a `model/v1`."""
    lane: Literal["interactive", "batch"] = "interactive"
    """Rows of `batch` wait for those of `interactive`, but always have one row in eight."""
    instruction: str = ""
    """The endpoint's own text prompt."""
    guidance: list[GuidanceUse] = []
    """Named guidance in the order in which it applies; a LoRA may have a scale from -8 to 8."""
    request_guidance: list[GuidanceName] = []
    """Guidance that a request may name in addition."""
    retrieval: RetrievalRule | None = None
    """The retrieval sets that it answers from."""
    input: InputRule = InputRule()
    """How an event becomes the text."""
    output: OutputRule
    """What type of result is promised."""
    output_message: Annotated[str, Meta(max_length=MAX_MESSAGE_CHARS)] = ""
    """The full name of a Protobuf message, described by `input.descriptors`, that holds a result for callers who want
    it: the fields of an object, or one field of the result's type."""
    generation: Generation = Generation()
    """How the answer is generated."""
    request_generation: RequestGeneration = RequestGeneration()
    """Which of these parameters a request may set, and how far."""
    calibration: CalibrationRule | None = None
    """Whether the labels of `choice`, `boolean` and `word_labels` are calibrated. The default is `auto`: `contextual`
    with 2 to 100 labels, no retrieval and no trained guidance, else `off`. `apply` writes down which of them it is."""
    access: Annotated[list[Grantee], Meta(max_length=1000)] = []
    """Other namespaces that may call it, `*` for all. All may call endpoints of `public`."""
    targets: Annotated[list[TargetName | WebhookUse], Meta(max_length=64)] = []
    """Where completed results appear as well: on the reply topics of other endpoints (`NAME`) and of targets of other
    namespaces (`/NAMESPACE/NAME`), and at webhooks (`{webhook: NAME}`). Results of other callers do not."""
    archive: bool | ArchiveRule = False
    """Whether completed results are kept for later training, and the texts: `true`, or a rule. Those of other callers
    are not."""
    max_text_chars: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    """The longest text that an event may become; a longer one is refused."""
    deadline_s: Annotated[float, Meta(gt=0)] | None = None
    """The deadline of events that bring none, counted from the record's timestamp."""
    partitions: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Partitions of its topics; a change applies to new topics only."""
    shadow: Shadow | None = None
    """What is tried on a share of its live traffic, unseen by callers."""
    partial: bool = False
    """Whether it has a topic for pieces of texts, so that its events may ask for them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in RESERVED_ENDPOINTS:
            raise ValueError(f"an endpoint's name cannot be {self.name!r}, which is reserved: choose another")
        if self.output_message and self.input.format != "protobuf":
            raise ValueError(
                "output_message needs descriptors, and stands beside a message for events: write `input: {format: "
                "protobuf, message: PACKAGE.MESSAGE, descriptors: FILE}`"
            )
        fields = self.input.fields
        if self.input.text_field == "text" and "text" not in fields:
            raise ValueError(
                "input.text_field is `text` unless it says another field, and there is no field `text`: write "
                f"`text_field: {next(iter(fields))}`, or `text_field: null` to refuse plain text"
            )
        for what, field in (("input.text_field", self.input.text_field), ("output.words_from", self._words_from)):
            if field is not None and (field not in fields or fields[field].type != "string"):
                raise ValueError(f"{what} names {field!r}: declare it under input.fields as a string")
        if self._words_from is not None:
            words = fields[self._words_from]
            if words.default is not None and not words.takes(words.default):
                raise ValueError(f"output.words_from: the default of input.fields.{self._words_from} must be a string")
        if self.retrieval is not None:
            self._check_retrieval(self.retrieval)
        if len(self.webhooks) > MAX_WEBHOOKS:
            raise ValueError(
                f"targets has {len(self.webhooks)} webhooks, at most {MAX_WEBHOOKS} are taken: leave some out"
            )
        for name in self.guidance:
            _, _, scale = name.partition("*")
            if scale and abs(float(scale)) > MAX_SCALE:
                raise ValueError(f"guidance {name!r} has scale {scale}: choose one from -{MAX_SCALE} to {MAX_SCALE}")

    def _check_retrieval(self, rule: RetrievalRule) -> None:
        types = {name: field.type for name, field in self.input.fields.items()}
        if rule.query is not None and types.get(rule.query) != "string":
            raise ValueError(f"retrieval.query names {rule.query!r}: declare it under input.fields as a string")
        for key, name in rule.filter.items():
            if types.get(name) not in {"string", "integer", "boolean"}:
                raise ValueError(
                    f"retrieval.filter.{key} names {name!r}: declare it under input.fields as a string, an integer or "
                    "a boolean"
                )
        for used in filter(None, [rule.query, *rule.filter.values()]):
            field = self.input.fields[used]
            if field.default is not None and not (field.takes(field.default) and is_filterable(field.default)):
                raise ValueError(
                    f"retrieval uses input.fields.{used}, and cannot search for its default: give one of type "
                    f"{field.type}; an integer has at most 64 bits"
                )

    @property
    def _words_from(self) -> str | None:
        return self.output.words_from if isinstance(self.output, WordLabels) else None

    @property
    def topic_targets(self) -> list[str]:
        """`NAME` or `/NAMESPACE/NAME` of the targets that are reply topics."""
        return [one for one in self.targets if isinstance(one, str)]

    @property
    def webhooks(self) -> list[str]:
        """The names of its webhooks, each once."""
        return list(dict.fromkeys(one.webhook for one in self.targets if isinstance(one, WebhookUse)))

    @property
    def archived(self) -> ArchiveRule | None:
        """What is archived; None: nothing."""
        return (ArchiveRule() if self.archive else None) if isinstance(self.archive, bool) else self.archive

    @property
    def leaves(self) -> bool:
        """Whether its results leave Kafka."""
        return bool(self.webhooks) or self.archived is not None

    @property
    def address(self) -> str:
        """`/NAMESPACE/NAME`."""
        return endpoint_address(self.namespace, self.name)

    @property
    def copied_to(self) -> list[str]:
        """`topic_targets`, and the target of doubtful values."""
        return list(dict.fromkeys(filter(None, [*self.topic_targets, doubtful_target(self.output)])))

    @property
    def own_targets(self) -> set[str]:
        """NAME of each reply topic of its own namespace in `copied_to`."""
        found = (to.rpartition("/") for to in self.copied_to)
        return {name for owner, _, name in found if owner in ("", f"/{self.namespace}")}

    def callable_by(self, namespace: str) -> bool:
        """Whether `namespace` may call it."""
        return open_to(namespace, self.namespace, self.access)


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Where trained guidance comes from, and its score. The studio writes it."""

    run: str
    """The id of the studio's run."""
    method: str
    """The method's name in the run's task; `text-prompt` for an instruction that was found."""
    code: str
    """Version of the code that trained it."""
    seed: int
    """The seed of the run's schedule."""
    data: Digest
    """The digest of the training and validation rows."""
    eval_data: Digest
    """The digest of the rows that were scored; two scores compare where it is the same."""
    metric: str
    """What the score is: accuracy, F1 and the like; agreement, where the answers are a model's."""
    score: Annotated[list[float], Meta(min_length=3, max_length=3)]
    """[value, low, high], a 95 % interval"""
    over_bare: Annotated[list[float], Meta(max_length=3)] = []
    """[difference, low, high] against the bare model, row by row."""
    rows: Annotated[int, Meta(ge=1)]
    """How many rows were scored."""
    calibration_error: Annotated[list[float], Meta(max_length=2)] = []
    """[before, after] the endpoint's `label_temperature`: the expected calibration error on rows that were scored."""
    parent: str = ""
    """`NAMESPACE/NAME@VERSION` of the guidance that the endpoint had before."""


class Guidance(Manifested, frozen=True, kw_only=True, tag="guidance/v1"):
    """What customises the frozen model, by name: a text prompt or a trained artefact."""

    form: Literal["text_prompt"] | TrainedForm
    """`text_prompt` has `text`; all others have `artefact` and `model_fingerprint`."""
    text: str = ""
    """The instruction, for `text_prompt`."""
    artefact: str = ""
    """In a file: the folder, relative to the file. In the catalogue: the artefact's digest."""
    model_fingerprint: Digest | None = None
    """The base model that the artefact was trained on; it is refused on any other."""
    virtual_tokens: Annotated[int, Meta(ge=1)] | None = None
    """How many tokens of the context a soft prompt or a prefix takes. `apply` finds it out."""
    shared_with: list[Grantee] = []
    """Other namespaces that may use it; `*` for all. All may use guidance of `public`."""
    lineage: Lineage | None = None
    """Where it comes from. The studio writes it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "text_prompt":
            if not self.text or self.artefact or self.virtual_tokens:
                raise ValueError("a text_prompt has `text` and no `artefact` or `virtual_tokens`")
        elif not self.artefact or self.text or self.model_fingerprint is None:
            raise ValueError(f"a {self.form} has `artefact` and `model_fingerprint` and no `text`")

    def usable_by(self, namespace: str) -> bool:
        """Whether endpoints of `namespace` may use it."""
        return open_to(namespace, self.namespace, self.shared_with)


class Model(Manifested, frozen=True, kw_only=True, tag="model/v1"):
    """The base model behind a model size; its `name` is the size, its namespace `public`."""

    source: Annotated[str, Meta(min_length=1)]
    """`package:NAME/FILE.gguf` (a file inside an installed Python package), a folder, a `.gguf` file, or a hub name."""
    fingerprint: Digest | None = None
    """Hash of its weights and configuration. A worker serves no other weights. None: `apply` computes it."""
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "bfloat16"
    """The type of its weights while they are served. With `int8`, on CPUs, those of its linear modules are rounded to 8
    bits: it is another model, with a fingerprint and guidance of its own."""
    max_context_tokens: Annotated[int, Meta(ge=16)] = 2048
    """The most tokens of a text and its answer together."""
    partitions: Annotated[int, Meta(ge=1, le=1000)] = 4
    """Partitions of its request topics: at least as many as workers."""
    shape: ModelShape | None = None
    """What guidance has to fit of it: `apply` refuses what does not. None: `apply` finds it out if the model is on its
    machine. Where it stays unknown, only workers refuse guidance that does not fit. What is written here is compared
    with the model, and believed where the model is not on the machine of `apply`, which then says so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.namespace != "public":
            raise ValueError("a model's namespace is `public`: everybody shares it")


Manifest = Endpoint | Guidance | Model | RetrievalSet | SetAlias | Calibrated | Namespace | Router | Webhook | Target


class Deleted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="deleted/v1"):
    """In place of a manifest: this version was deleted, and the next one of its name has a higher number."""
