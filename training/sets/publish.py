"""Publishes a set's folder as a version in the catalogue: it is stored and indexed before it is visible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from guideway.catalogue.artefacts.contents import SET_FILES, read_folder
from guideway.catalogue.artefacts.room import StoreRoom
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.bounds import too_much
from guideway.catalogue.changes import Change, Deletion, plan_changes, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish_planned
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import MAX_METADATA_NAMES, RetrievalSet, SetAlias
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.workers.messages.to_retrieval import index_key
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.index import Qdrant
from guideway.workers.retrieval.set_folder import SetFolder


class Published(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The result of publishing a set."""

    set: str
    """`NAMESPACE/NAME`"""
    version: int
    current: int
    """The version that the set's name means."""
    action: str
    """`created`, `updated` or `unchanged`"""
    passages: int
    left_out: list[str] = []
    """Files in the given folders of unknown types."""
    skipped: list[str] = []
    """The faults of rows and files that were left out."""


def previous(catalogue: Catalogue, namespace: str, name: str) -> RetrievalSet | None:
    """The version that the set's name means; None if there is none."""
    found = catalogue.get(Identity("set", namespace, name), catalogue.current_version(namespace, name))
    return found if isinstance(found, RetrievalSet) else None


async def publish_set(
    reader: CatalogueFollower,
    cluster: Cluster,
    store: ArtefactStore,
    qdrant: Qdrant,
    folder: Path,
    *,
    namespace: str,
    name: str,
    shared_with: Sequence[str],
    stage: bool,
) -> Published:
    """Publish the folder as the set's next version. stage: the set's name still means the present version.

    The catalogue is written last, so that no half stored or half indexed version can be used.
    Raises Refusal(guidance_damaged) for an incomplete folder.
    """
    content = set_folder.read(folder)
    info = content.info
    digest = StoreRoom(store, reader.catalogue).put(namespace, read_folder(folder, SET_FILES))
    if qdrant.url is not None:
        qdrant.open(index_key(namespace, digest), info.passages, lambda: content).close()
    made = _valid(
        namespace=namespace,
        name=name,
        artefact=digest,
        embedding=info.embedding,
        passages=info.passages,
        metadata=_metadata_names(content),
        shared_with=sorted(shared_with),
    )

    async def planned(catalogue: Catalogue) -> list[Change]:
        return _next_version(catalogue, made, stage=stage)

    changes, written = await publish_planned(cluster, [catalogue_topic(namespace)], planned)
    await reader.seen(written)
    change = next(change for change in changes if isinstance(change.manifest, RetrievalSet))
    current = next((one.manifest.version for one in changes if isinstance(one.manifest, SetAlias)), change.version)
    return Published(
        set=f"{namespace}/{name}",
        version=change.version,
        current=current,
        action=change.action,
        passages=info.passages,
    )


async def switch(reader: CatalogueFollower, cluster: Cluster, namespace: str, name: str, version: int) -> int:
    """Let the set's name mean this version, for every request from now on. Returns the version before.

    Raises Refusal(guidance_unknown).
    """
    before = reader.catalogue.current_version(namespace, name)

    async def planned(catalogue: Catalogue) -> list[Change]:
        versions = catalogue.versions(Identity("set", namespace, name))
        if version not in versions:
            known = ", ".join(map(str, versions)) or "none: create it first"
            raise Refusal(
                FailureCode.GUIDANCE_UNKNOWN,
                f"retrieval set {namespace}/{name} has no version {version}; it has {known}",
            )
        return _alias_change(catalogue, namespace, name, version, newest=versions[-1])

    _, written = await publish_planned(cluster, [catalogue_topic(namespace)], planned)
    await reader.seen(written)
    return before


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What the deletion of a set, or of one version, removes."""

    versions: list[int]
    deletions: list[Deletion]
    """The deletions of the catalogue, aliases included."""
    unused_artefacts: list[str]
    """Digests of artefacts that no set of the namespace has afterwards."""


def removal(catalogue: Catalogue, namespace: str, name: str, version: int | None) -> Removal:
    """The removal of one version, or of all.

    Raises Refusal(invalid_setting) for one of several versions, if the set's name means it.
    """
    identity, alias = Identity("set", namespace, name), Identity("alias", namespace, name)
    there = catalogue.versions(identity)
    gone = there if version is None else [version]
    last = set(gone) == set(there)
    if not last and catalogue.current_version(namespace, name) in gone:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{namespace}/{name} stands for version {version}: switch it to another one first, with "
            "`guideway sets alias`",
        )
    artefacts = {
        (other, number): found.artefact
        for other in catalogue.identities("set")
        if other.namespace == namespace
        for number in catalogue.versions(other)
        if isinstance(found := catalogue.get(other, number), RetrievalSet)
    }
    removed = {(identity, number) for number in gone}
    kept = {digest for key, digest in artefacts.items() if key not in removed}
    return Removal(
        versions=gone,
        deletions=plan_deletion(catalogue, identity, gone)
        + (plan_deletion(catalogue, alias, catalogue.versions(alias)) if last else []),
        unused_artefacts=sorted({artefacts[key] for key in removed if key in artefacts} - kept),
    )


def _next_version(catalogue: Catalogue, made: RetrievalSet, *, stage: bool) -> list[Change]:
    """The changes for the set's next version and for what its name means."""
    before = catalogue.current_version(made.namespace, made.name)
    (change,) = plan_changes(catalogue, [made])
    current = before if stage and before else change.version
    aliases = _alias_change(catalogue, made.namespace, made.name, current, newest=change.version)
    # An alias for the present version comes first: the new version must not be current for a moment.
    return [*aliases, change] if current != change.version else [change, *aliases]


def _alias_change(catalogue: Catalogue, namespace: str, name: str, version: int, *, newest: int) -> list[Change]:
    """The change that makes the name mean `version`; none if it already does because it is the newest."""
    if version == newest and catalogue.latest(Identity("alias", namespace, name)) is None:
        return []
    return plan_changes(catalogue, [SetAlias(namespace=namespace, name=name, version=version)])


def _metadata_names(content: SetFolder) -> list[str]:
    found = sorted({key for passage in content.passages for key in passage.metadata})
    return found if len(found) <= MAX_METADATA_NAMES else []


def _valid(**fields: object) -> RetrievalSet:
    """The manifest of a set with these fields. Raises Refusal(invalid_manifest)."""
    try:
        made = msgspec.convert(msgspec.to_builtins({"kind": "set/v1", **fields}), RetrievalSet)
        for _, why in too_much(made):
            raise ValueError(why)
    except ValueError as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"the retrieval set cannot be published: {error}") from None
    return made
