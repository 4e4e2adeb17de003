"""The documents of a retrieval set."""

from __future__ import annotations

import msgspec

from guideway.schemas.retrieval import Metadata


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A text with an id."""

    id: str
    text: str
    metadata: Metadata = {}
    markdown: bool = False
    """Whether `#` marks headings."""


class DocumentFields(msgspec.Struct, frozen=True, kw_only=True):
    """Which fields of a row are its text and its id. All other fields are metadata."""

    text: str = "text"
    id: str = "id"
    """The id of a row without this field is its place: FILE:ROW."""
