"""Manifests into the catalogue: checked, planned, and either published or only shown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guideway.catalogue.artefacts.contents import Contents, digest_of
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Change, plan_changes
from guideway.catalogue.documents.calibration_files import with_texts
from guideway.catalogue.documents.faults import Fault, Faulty
from guideway.catalogue.documents.manifest_files import Source, resolved
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.owned import known_artefacts, not_owned
from guideway.catalogue.topic import CatalogueFollower, publish_planned
from guideway.infra import topics
from guideway.producers.checks.calibration import check_calibration, settled
from guideway.producers.checks.check import faults_alone, faults_together
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.settings import Settings
from guideway.workers.engine.model.model_kind import check_source


@dataclass(frozen=True)
class Preview:
    """What `apply` would do."""

    changes: Sequence[Change]
    before: Sequence[tuple[int, Manifest] | None]
    """The version that is there now, for each of them; None: it is new."""
    topics: Sequence[str]
    """Those that would be created."""


async def apply_manifests(
    settings: Settings,
    sources: Sequence[Source],
    *,
    create_topics: bool = True,
    replication: int | None = None,
    most_per_broker: int = topics.MAX_PARTITIONS_PER_BROKER,
) -> Sequence[Change]:
    """Apply what people have written.

    Raises Faulty with all that is wrong, as far as it can be told together; else Refusal.
    """
    check_alone(sources)
    return await _apply(
        settings,
        lambda _: sources,
        create_topics=create_topics,
        replication=replication,
        most_per_broker=most_per_broker,
    )


async def apply_made(settings: Settings, made_on: Callable[[Catalogue], Sequence[Manifest]]) -> Sequence[Change]:
    """Apply manifests that a program makes: the same is checked as of those that people write.

    made_on: what is to be published, made on the catalogue as it is; called again where others publish meanwhile. Its
    guidance may name an artefact by the absolute path of its folder, which is stored. Raises as `apply_manifests`.
    """

    def sources(catalogue: Catalogue) -> list[Source]:
        found = [Source(Path(), manifest) for manifest in made_on(catalogue)]
        check_alone(found)
        return found

    return await _apply(settings, sources)


async def _apply(
    settings: Settings,
    made_on: Callable[[Catalogue], Sequence[Source]],
    *,
    create_topics: bool = True,
    replication: int | None = None,
    most_per_broker: int = topics.MAX_PARTITIONS_PER_BROKER,
) -> Sequence[Change]:
    """Check, upload artefacts, create topics, publish; in this order, so that nothing half-applied is visible.

    made_on: returns manifests that have passed `check_alone`.
    """
    bootstrap = settings.answering_brokers()
    if create_topics:
        # The catalogue's own topic first: it is read below.
        await topics.apply(bootstrap, topics.wanted([]), replication=replication)

    async def planned(catalogue: Catalogue) -> list[Change]:
        sources = made_on(catalogue)
        # Nothing is stored before all of it is known to be well.
        check_together(sources, catalogue)
        store = ArtefactStore(settings.store)
        manifests = settled([_resolved(source, catalogue, store.put) for source in sources], catalogue)
        if create_topics:
            with _placed(sources):
                await topics.apply(
                    bootstrap, topics.wanted(manifests), replication=replication, most_per_broker=most_per_broker
                )
        return plan_changes(catalogue, manifests)

    changes, _ = await publish_planned(bootstrap, planned)
    return changes


async def preview(
    settings: Settings,
    sources: Sequence[Source],
    *,
    create_topics: bool = True,
    replication: int | None = None,
    most_per_broker: int = topics.MAX_PARTITIONS_PER_BROKER,
) -> Preview:
    """What `apply_manifests` would do, and what it would refuse; nothing is written anywhere."""
    check_alone(sources)
    bootstrap = settings.answering_brokers()
    wanted = topics.wanted([source.manifest for source in sources]) if create_topics else []
    with _placed(sources):
        absent = await topics.missing(bootstrap, wanted, replication=replication, most_per_broker=most_per_broker)
    catalogue = await present(bootstrap)
    check_together(sources, catalogue)
    changes = plan_changes(
        catalogue, settled([_resolved(source, catalogue, digest_of) for source in sources], catalogue)
    )
    return Preview(changes, [catalogue.latest(change.identity) for change in changes], absent)


async def present(bootstrap: str) -> Catalogue:
    """The catalogue as it is now; empty where its topic is not there yet."""
    if await topics.missing(bootstrap, topics.wanted([])):
        return Catalogue()
    async with CatalogueFollower(bootstrap) as reader:
        return reader.catalogue


def check_alone(sources: Sequence[Source]) -> None:
    """Raises Faulty: what is wrong whatever the catalogue holds, what they name on this machine's disk included."""
    if found := [*faults_alone(sources), *_of_files(sources)]:
        raise Faulty(found)


def check_together(sources: Sequence[Source], catalogue: Catalogue) -> None:
    """Raises Faulty: what is wrong beside what the catalogue holds."""
    found = []
    for source in sources:
        if (wrong := not_owned(source.manifest, catalogue)) is not None:
            place, why = wrong
            found.append(source.fault(why, place))
        if _is_by_digest(source.manifest):
            found += _of_artefact(source, catalogue)
    if found := [*found, *faults_together(sources, catalogue)]:
        raise Faulty(found)


@contextlib.contextmanager
def _placed(sources: Sequence[Source]) -> Iterator[None]:
    """A topic that is too wide is the fault of whoever asks for it."""
    try:
        yield
    except topics.TooWide as refusal:
        for source in sources:
            if refusal.topic in {one.name for one in topics.wanted([source.manifest])}:
                raise Faulty([source.fault(refusal.message, ("partitions",), refusal.code)]) from None
        raise


def _of_files(sources: Sequence[Source]) -> Iterator[Fault]:
    for source in sources:
        if isinstance(source.manifest, Model):
            try:
                check_source(source.manifest.source)
            except Refusal as refusal:
                yield source.fault(refusal.message, ("source",), refusal.code)
        if isinstance(source.manifest, Endpoint):
            try:
                check_calibration(with_texts(source.path, source.manifest))
            except Refusal as refusal:
                yield source.fault(refusal.message, ("calibration",), refusal.code)
        if not _is_by_digest(source.manifest):
            yield from _of_artefact(source, Catalogue())


def _is_by_digest(manifest: Manifest) -> bool:
    return isinstance(manifest, Guidance) and manifest.artefact.startswith("sha256:")


def _of_artefact(source: Source, catalogue: Catalogue) -> Iterator[Fault]:
    try:
        _resolved(source, catalogue, lambda _: _NOT_KEPT)
    except Refusal as refusal:
        yield source.fault(refusal.message, ("artefact",), refusal.code)


_NOT_KEPT: Final = f"sha256:{'0' * 64}"


def _resolved(source: Source, catalogue: Catalogue, keep: Callable[[Contents], str]) -> Manifest:
    return resolved(source.path, source.manifest, keep, known_artefacts(source.manifest, catalogue))
