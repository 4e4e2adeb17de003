"""Use of retrieval sets: an endpoint's rule, a request's part of it, and a reply's citations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SetUse = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9-]+/[a-z0-9-]+(@[1-9][0-9]{0,8})?(\*[0-9](\.[0-9]{1,4})?)?\Z",
        description="NAMESPACE/NAME, perhaps with @VERSION, and with *WEIGHT after it",
    ),
]
"""`NAMESPACE/NAME` for the version that the name stands for, `@VERSION` for one, and perhaps `*WEIGHT` after it."""
GuidanceName = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9-]+/[a-z0-9-]+(@[1-9][0-9]{0,8})?\Z", description="NAMESPACE/NAME, perhaps with @VERSION"),
]
"""`NAMESPACE/NAME` for the newest version, `NAMESPACE/NAME@VERSION` for one; of a set, for the current version."""
GuidanceUse = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9-]+/[a-z0-9-]+(@[1-9][0-9]{0,8})?(\*-?[0-9](\.[0-9]{1,4})?)?\Z",
        description="NAMESPACE/NAME, perhaps with @VERSION, and of a LoRA with *SCALE after it",
    ),
]
"""A `GuidanceName`, and for a LoRA perhaps a scale after it: `NAMESPACE/NAME*0.5` has half of the effect."""

MAX_SETS: Final = 16
"""The most sets of one request."""

IfNone = Literal["refuse", "answer_without", "say_so"]
"""What happens if no passage is found: the request is refused, or goes on without context or with one that says so."""

MetadataName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,100}\Z", description="1 to 100 letters, digits, `_` and `-`")
]
Scalar = str | int | bool
"""A value by which passages can be filtered."""
Metadata = dict[str, Scalar | float | list[Scalar]]
"""Metadata of a document and its passages."""
_INTEGERS: Final = range(-(2**63), 2**63)
"""The integers that an index can hold."""


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    passages: Annotated[int, Meta(ge=1, le=32)] = 3
    """The most passages that go into the text."""
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 256
    """The most tokens of all passages together, headings included, by the base model's tokenizer. A passage that does
    not fit is left out; none is cut. With `generation.max_tokens`, less than the model's `max_context_tokens`."""
    min_score: Annotated[float, Meta(ge=-1, le=1)] = 0.2
    """The least cosine of the angle between query and passage; a passage below it is not used."""
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """How much a difference from the passages already chosen counts, against similarity to the query."""
    if_none: IfNone = "say_so"
    """What happens if no passage is good enough: the request is refused, or goes on without context or with one that
    says so."""


def is_filterable(value: Scalar) -> bool:
    """Whether an index can filter by it: text, a boolean, or a signed integer of 64 bits."""
    return not isinstance(value, int) or value in _INTEGERS


def named_twice(sets: Iterable[str]) -> str:
    """Which set is named twice, in whatever version and with whatever weight; empty: none is.

    A request is answered from one version of a set: of what has changed between two, both would be told.
    """
    by_name: dict[str, str] = {}
    for name in sets:
        plain = name.partition("*")[0].partition("@")[0]
        if plain in by_name:
            return f"set {plain} is named twice (as {by_name[plain]} and as {name}): name it once"
        by_name[plain] = name
    return ""


class RetrievalRule(_Choice, frozen=True, kw_only=True):
    """The retrieval sets from which an endpoint answers, and how passages are searched and chosen."""

    sets: Annotated[list[SetUse], Meta(max_length=MAX_SETS)] = []
    """The scores of a set are multiplied by its weight, 1 by default, before sets are compared. Each is named once, in
    one version."""
    request_sets: Annotated[list[GuidanceName], Meta(max_length=100)] = []
    """Sets that a request may name in addition, beside its other guidance."""
    query: str | None = None
    """The input field that is the query; null, or an absent field: the whole input text."""
    filter: dict[MetadataName, str] = {}
    """Name in the passages' metadata → input field. Only passages with the field's value are found. An absent field
    does not filter."""

    def __post_init__(self) -> None:
        if not self.sets and not self.request_sets:
            raise ValueError("retrieval names no set: list some under `sets` or `request_sets`")

    def of(self, sets: Sequence[SetRef], query: str, filter_: Sequence[Condition] = ()) -> Retrieval:
        """The search that this rule means in these versions of its sets."""
        return Retrieval(
            sets=list(sets),
            query=query,
            filter=list(filter_),
            passages=self.passages,
            max_tokens=self.max_tokens,
            min_score=self.min_score,
            diversity=self.diversity,
            if_none=self.if_none,
        )


class SetRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A retrieval set by name and version. A request uses exactly one version."""

    namespace: str
    name: str
    version: Annotated[int, Meta(ge=1)]
    weight: Annotated[float, Meta(ge=0, lt=10)] = 1.0

    def __str__(self) -> str:
        """`NAMESPACE/NAME@VERSION`."""
        return f"{self.namespace}/{self.name}@{self.version}"


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A passage's metadata `key` must be, or hold, `value`."""

    key: MetadataName
    value: Scalar


class Retrieval(_Choice, frozen=True, kw_only=True):
    """The search that a worker makes for one request."""

    sets: Annotated[list[SetRef], Meta(min_length=1, max_length=MAX_SETS)]
    query: str
    filter: list[Condition] = []


class Citation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A passage that went into the text of a request."""

    id: str
    """The id of the passage in its set."""
    set: str
    """`NAMESPACE/NAME`"""
    version: int
    score: float
    """Cosine of the angle between query and passage."""
