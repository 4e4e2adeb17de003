"""Retrieval sets in use: an endpoint's rule, what a request carries of it, and what a reply cites."""

from __future__ import annotations

from collections.abc import Sequence
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

MAX_SETS: Final = 16
"""Of one request."""

IfNone = Literal["refuse", "answer_without", "say_so"]
"""What "no passage found" means: the request is refused, or goes on without context, or with a context that says so."""

MetadataName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,100}\Z", description="1 to 100 letters, digits, `_` and `-`")
]
Scalar = str | int | bool
"""What a passage's metadata can be filtered by."""
Metadata = dict[str, Scalar | float | list[Scalar]]
"""Of a document and its passages."""
_INTEGERS: Final = range(-(2**63), 2**63)
"""Those that an index holds."""


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    passages: Annotated[int, Meta(ge=1, le=32)] = 3
    """At most so many go into the text."""
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 256
    """Tokens of the base model that all of them may take together, headings included; one that does not fit is left
    out, never cut."""
    min_score: Annotated[float, Meta(ge=-1, le=1)] = 0.2
    """Cosine of the angle between query and passage, below which a passage is not to the point."""
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """How much being unlike those already chosen counts, against being like the query."""
    if_none: IfNone = "say_so"
    """Where no passage is to the point: the request is refused, goes on without context, or with one that says so."""


def is_filterable(value: Scalar) -> bool:
    """Whether an index can compare with it: text, a boolean, or an integer of 64 bits with sign."""
    return not isinstance(value, int) or value in _INTEGERS


class RetrievalRule(_Choice, frozen=True, kw_only=True):
    """From which facts an endpoint answers: its retrieval set tags, and how passages are looked up and chosen."""

    sets: Annotated[list[SetUse], Meta(max_length=MAX_SETS)] = []
    """A set's scores are multiplied by its weight, 1 where none is given, before sets are compared."""
    request_sets: Annotated[list[GuidanceName], Meta(max_length=100)] = []
    """Sets that a request may bring along by name, beside its other guidance."""
    query: str | None = None
    """The input field that is looked up; null, or the field absent: the whole input text."""
    filter: dict[MetadataName, str] = {}
    """Name in the passages' metadata → input field; only passages that have the field's value are found. An absent
    field filters nothing."""

    def __post_init__(self) -> None:
        if not self.sets and not self.request_sets:
            raise ValueError("retrieval names no set: list some under `sets` or `request_sets`")

    def of(self, sets: Sequence[SetRef], query: str, filter_: Sequence[Condition] = ()) -> Retrieval:
        """What to look up by this rule, in these versions of its sets."""
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
    """A retrieval set by name and version: a request sees exactly one version."""

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
    """What a worker looks up for one request."""

    sets: Annotated[list[SetRef], Meta(min_length=1, max_length=MAX_SETS)]
    query: str
    filter: list[Condition] = []


class Citation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A passage that went into the text of a request."""

    id: str
    """Of the passage, in its set."""
    set: str
    """`NAMESPACE/NAME`"""
    version: int
    score: float
    """Cosine of the angle between query and passage."""
