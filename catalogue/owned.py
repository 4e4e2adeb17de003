"""Manifests as `describe` shows them, which name artefacts by digest: whether their owner has those. Pure."""

from __future__ import annotations

from guideway.catalogue.documents.faults import FieldPath
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.manifests import Guidance, Manifest, RetrievalSet, SetAlias


def known_artefacts(manifest: Manifest, catalogue: Catalogue) -> set[str]:
    """The digests that versions of it have: naming one of these again shows nobody anything new."""
    versions = _versions(Identity.of(manifest), catalogue)
    return {one.artefact for one in versions if isinstance(one, Guidance | RetrievalSet) and one.artefact}


def not_owned(manifest: Manifest, catalogue: Catalogue) -> tuple[FieldPath, str] | None:
    """(place, message) where a retrieval set or an alias is not one that `guideway sets` has made."""
    identity = Identity.of(manifest)
    name = f"{identity.namespace}/{identity.name}"
    match manifest:
        case RetrievalSet():
            made = [one for one in _versions(identity, catalogue) if isinstance(one, RetrievalSet)]
            if not any(_content(one) == _content(manifest) for one in made):
                return ("artefact",), (
                    f"no version of the set has this artefact, embedding, passages and metadata: make one with "
                    f"`guideway sets create {name}`; a manifest can change its description and shared_with"
                )
        case SetAlias(version=version):
            versions = catalogue.versions(Identity("set", identity.namespace, identity.name))
            if version not in versions:
                there = ", ".join(map(str, versions)) or "none"
                return ("version",), f"the set {name} has no version {version}: its versions are {there}"
    return None


def _versions(identity: Identity, catalogue: Catalogue) -> list[Manifest]:
    found = (catalogue.get(identity, version) for version in catalogue.versions(identity))
    return [one for one in found if one is not None]


def _content(one: RetrievalSet) -> tuple[object, ...]:
    return one.artefact, one.embedding, one.passages, one.metadata
