"""Fact sets, and which version a set's name stands for."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from guideway.schemas.kinds.manifest import Digest, Grantee, Manifested, open_to

MAX_METADATA_NAMES: Final = 200


class EmbeddingModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model that embedded a set's passages. Queries need the same one, else the set is refused."""

    source: Annotated[str, Meta(min_length=1)]
    """`package:NAME/FOLDER`, a folder, or a hub name."""
    fingerprint: Digest
    """Hash of its weights and configuration."""
    dimension: Annotated[int, Meta(ge=1)]
    """How many numbers a vector has."""


class RetrievalSet(Manifested, frozen=True, kw_only=True, tag="set/v1"):
    """One version of a fact set: passages with their vectors, an artefact that `guideway sets create` makes."""

    artefact: Digest
    """The digest of the passages and their vectors. A manifest can name that of any version of the set."""
    embedding: EmbeddingModel
    """The model that embedded its passages."""
    passages: Annotated[int, Meta(ge=1)]
    """How many it holds."""
    metadata: Annotated[list[str], Meta(max_length=MAX_METADATA_NAMES)] = []
    """The names in its passages' metadata; empty where they are unknown or too many."""
    shared_with: list[Grantee] = []
    """Other namespaces that may use it; `*` for all."""

    def usable_by(self, namespace: str) -> bool:
        """Whether endpoints of `namespace` may use it."""
        return open_to(namespace, self.namespace, self.shared_with)


class SetAlias(Manifested, frozen=True, kw_only=True, tag="alias/v1"):
    """Which version the name of a retrieval set stands for. Without an alias it stands for the newest."""

    version: Annotated[int, Meta(ge=1)]
    """The version of the set with this name."""
