"""Whether the owner of a manifest has the artefacts that it names by digest, as `describe` shows them. Pure."""

from __future__ import annotations

from guideway.catalogue.documents.faults import FieldPath
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.kinds.retrieval_set import RetrievalSet, SetAlias
from guideway.schemas.manifests import Guidance, Manifest


def known_artefacts(manifest: Manifest, catalogue: Catalogue) -> dict[str, int | None]:
    """The digests of its versions, which a manifest may name again → virtual tokens of each, as far as known."""
    found: dict[str, int | None] = {}
    for one in _versions(Identity.of(manifest), catalogue):
        if isinstance(one, Guidance | RetrievalSet) and one.artefact:
            tokens = one.virtual_tokens if isinstance(one, Guidance) else None
            found[one.artefact] = tokens or found.get(one.artefact)
    return found


def not_owned(manifest: Manifest, catalogue: Catalogue) -> tuple[FieldPath, str] | None:
    """(place, message) if `guideway sets` has not made this retrieval set or alias; else None."""
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
