"""What a set is made from."""

from __future__ import annotations

import msgspec

from guideway.schemas.retrieval import Metadata


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A text with an id of its own."""

    id: str
    text: str
    metadata: Metadata = {}
    markdown: bool = False
    """Whether headings are marked by `#`."""


class DocumentFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the fields of rows are; all other fields are metadata."""

    text: str = "text"
    id: str = "id"
    """A row without this field is named after its place: FILE:ROW."""
