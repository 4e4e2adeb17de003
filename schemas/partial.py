"""Worker → caller: a text piece by piece while it is made. The reply that follows has the whole text, and counts."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Partial(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="schema", tag="guideway.partial.v1"
):
    """What came to one sample's text since the piece before: whole characters, which nothing takes back.

    Pieces 0, 1, 2, … of one attempt and sample, one behind the other, are the beginning of the text. A request may be
    begun again: by another worker, or after the engine died. Its pieces then have a higher attempt and begin at 0, and
    those of lower attempts count no more.
    """

    id: str
    """The request's id, as in its reply."""
    namespace: str
    endpoint: str
    sample: Annotated[int, Meta(ge=0)]
    """Which of the samples that were asked for, from 0."""
    attempt: Annotated[int, Meta(ge=0)]
    """When the request was begun, in microseconds since 1970 by the worker's clock; no two attempts have the same."""
    number: Annotated[int, Meta(ge=0)]
    """Of the piece, from 0 in each attempt and sample."""
    text: str


class Streamed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """In a reply: how many pieces there were."""

    attempt: int
    """The attempt whose texts these are."""
    pieces: list[int]
    """Of each sample that was asked for. Who has seen them all has the text; who has not takes it from the reply."""
