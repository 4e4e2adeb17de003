"""Manifests into the catalogue: checked, planned, and either published or only shown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from guideway.catalogue.artefacts.contents import Contents
from guideway.catalogue.artefacts.room import StoreRoom
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Change, plan_changes
from guideway.catalogue.documents.calibration_files import with_texts
from guideway.catalogue.documents.faults import Fault, Faulty
from guideway.catalogue.documents.manifest_files import Source, counted, resolved
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.owned import known_artefacts, not_owned
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish_planned, require_right
from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.awaiting import say_or_await
from guideway.infra.rights.hidden import hidden
from guideway.infra.topic_making import MAX_PARTITIONS_PER_BROKER, TooWide, make_topics, missing_topics
from guideway.producers.checks.calibration import check_calibration, settled
from guideway.producers.checks.check import faults_alone, faults_together
from guideway.producers.checks.references import owners_named
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names.service_topics import catalogue_topic, is_catalogue_topic
from guideway.settings import Settings
from guideway.usecases.models.identified import identified, is_read, with_shapes, wrong_shapes
from guideway.usecases.models.misfits import is_by_digest, misfits
from guideway.usecases.remarks import remarks
from guideway.usecases.shadows.checks import shadow_faults, shadow_trials
from guideway.usecases.shadows.turns import in_turn
from guideway.usecases.targets.webhooks import egress_faults
from guideway.workers.engine.model.model_kind import check_source
from guideway.workers.engine.text.grammar_trial import grammar_trial


@dataclass(frozen=True)
class Preview:
    """What `apply` would do."""

    changes: Sequence[Change]
    before: Sequence[tuple[int, Manifest] | None]
    """The version that is there now, for each of them; None: it is new."""
    topics: Sequence[str]
    """Those that would be created."""


Told = Callable[[str], None]
_Made = Callable[[Catalogue], Awaitable[Sequence[Source]]]


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How manifests are applied."""

    create_topics: bool = True
    replication: int | None = None
    most_per_broker: int = MAX_PARTITIONS_PER_BROKER
    wait_s: float = 60.0
    """For topics that this user may not create, until whoever runs the cluster has made them."""
    by: str = ""
    """The program that does it by itself; empty: somebody does."""


USUAL: Final = How()


async def apply_manifests(
    settings: Settings, sources: Sequence[Source], how: How = USUAL, told: Told = lambda _line: None
) -> Sequence[Change]:
    """Apply what people have written. told: gets what there is to say meanwhile.

    Raises Faulty with all that is wrong, as far as it can be told together; else Refusal: `not_allowed` where this user
    may not write in a namespace.
    """
    check_alone(sources, settings)
    namespaces = {source.manifest.namespace for source in sources}
    there = await _models_there(settings, sources)
    sources = with_shapes(sources, there)
    if any(is_read(source.manifest, there) for source in sources):
        # All weights are read for it: whoever may not apply is told so first.
        await require_right(settings.answering_cluster(), namespaces)
    whole = await asyncio.to_thread(identified, settings, sources, told, there)

    async def made_on(catalogue: Catalogue) -> list[Source]:
        return with_shapes(whole, catalogue)

    return await _apply(settings, namespaces, made_on, how, told)


async def apply_made(
    settings: Settings,
    namespaces: Collection[str],
    made_on: Callable[[Catalogue], Sequence[Manifest]],
    *,
    by: str = "",
    told: Told = lambda _line: None,
) -> Sequence[Change]:
    """Apply manifests that a program makes, of these namespaces: the same is checked as of those that people write.

    made_on: what is to be published, made on the catalogue as it is; called again where others publish meanwhile. Its
    guidance may name an artefact by the absolute path of its folder, which is stored. by: the program, where nobody has
    asked for it. told, Raises: as `apply_manifests`.
    """

    async def sources(catalogue: Catalogue) -> list[Source]:
        found = [Source(Path(), manifest) for manifest in made_on(catalogue)]
        await in_turn(namespaces, partial(check_alone, found))
        return found

    return await _apply(settings, namespaces, sources, How(by=by), told)


async def _apply(
    settings: Settings,
    namespaces: Collection[str],
    made_on: _Made,
    how: How,
    told: Told,
) -> Sequence[Change]:
    """Check, upload artefacts, create topics, publish; in this order, so that nothing half-applied is visible.

    Topics that this user may not create are waited for after that: others make them by what is published.
    made_on: returns manifests that have passed `check_alone`.
    """
    cluster = settings.answering_cluster()
    owners = [catalogue_topic(namespace) for namespace in namespaces]
    if how.create_topics:
        await _make_catalogues(cluster, namespaces, made_on, how)
    refused: set[str] = set()
    coming: set[str] = set()

    async def planned(catalogue: Catalogue) -> list[Change]:
        sources = await made_on(catalogue)
        await _note_hidden(cluster, sources, catalogue)
        # Nothing is stored before all of it is known to be well.
        check_together(sources, catalogue, settings)
        room = StoreRoom(ArtefactStore(settings.store), catalogue)
        manifests = settled([_resolved(source, catalogue, room.put) for source in sources], catalogue)
        if how.create_topics:
            with _placed(sources):
                if trials := shadow_trials(manifests, catalogue):
                    await _require_room(cluster, [*manifests, *trials], how)
                applied = await make_topics(
                    cluster,
                    topics.wanted(manifests),
                    replication=how.replication,
                    most_per_broker=how.most_per_broker,
                    without_right=True,
                )
                # Those of the catalogue were asked for by `require_right`; those of gateways are shown to no team.
                others = {one.name for namespace in namespaces for one in topics.gateways(namespace)}
                refused.update({one for one in applied.refused if not is_catalogue_topic(one)} - others)
                new = [one for one in manifests if catalogue.latest(Identity.of(one)) is None]
                coming.update(topic.name for one in new for topic in topics.own(one))
        for line in await asyncio.to_thread(remarks, settings, sources, catalogue):
            told(line)
        return plan_changes(catalogue, manifests)

    changes, _ = await publish_planned(cluster, owners, planned, by=how.by)
    await say_or_await(cluster, refused, coming, told, wait_s=how.wait_s)
    return changes


async def _require_room(cluster: Cluster, manifests: Sequence[Manifest], how: How) -> None:
    """Raises Refusal(invalid_setting) where the topics of these would be too many."""
    wanted = topics.wanted(manifests)
    await missing_topics(cluster, wanted, replication=how.replication, most_per_broker=how.most_per_broker)


async def _make_catalogues(cluster: Cluster, namespaces: Collection[str], made_on: _Made, how: How) -> None:
    """The catalogue's own topics come first: they are read when versions are planned."""
    own = topics.catalogues(namespaces)
    if await missing_topics(cluster, own, replication=how.replication):
        # Whoever may not write there is told so, before all else.
        await require_right(cluster, namespaces)
        # A namespace that is only misspelt gets no topic.
        catalogue = await present(cluster)
        sources = await made_on(catalogue)
        await _note_hidden(cluster, sources, catalogue)
        check_together(sources, catalogue)
        await make_topics(cluster, own, replication=how.replication, without_right=True)


async def _note_hidden(cluster: Cluster, sources: Sequence[Source], catalogue: Catalogue) -> None:
    named = {owner for source in sources for owner in owners_named(source.manifest)}
    catalogue.hidden = await hidden(cluster, named) if named else frozenset()


async def preview(
    settings: Settings, sources: Sequence[Source], how: How = USUAL, told: Told = lambda _line: None
) -> Preview:
    """What `apply_manifests` would do, and what it would refuse; nothing is written anywhere."""
    check_alone(sources, settings)
    there = await _models_there(settings, sources)
    sources = await asyncio.to_thread(identified, settings, with_shapes(sources, there), told, there)
    cluster = settings.answering_cluster()
    wanted = topics.wanted([source.manifest for source in sources]) if how.create_topics else []
    with _placed(sources):
        absent = await missing_topics(cluster, wanted, replication=how.replication, most_per_broker=how.most_per_broker)
    catalogue = await present(cluster)
    await _note_hidden(cluster, sources, catalogue)
    check_together(sources, catalogue, settings)
    room = StoreRoom(ArtefactStore(settings.store), catalogue)
    manifests = settled([_resolved(source, catalogue, room.checked) for source in sources], catalogue)
    if how.create_topics and (trials := shadow_trials(manifests, catalogue)):
        await _require_room(cluster, [*manifests, *trials], how)
    changes = plan_changes(catalogue, manifests)
    for line in await asyncio.to_thread(remarks, settings, sources, catalogue):
        told(line)
    return Preview(changes, [catalogue.latest(change.identity) for change in changes], absent)


async def _models_there(settings: Settings, sources: Sequence[Source]) -> Catalogue:
    """The catalogue as it is, where a model is applied; else an empty one."""
    is_asked = any(isinstance(source.manifest, Model) for source in sources)
    return await present(settings.answering_cluster()) if is_asked else Catalogue()


async def present(cluster: Cluster) -> Catalogue:
    """The catalogue as it is now; empty where it has no topic yet."""
    async with administrator(cluster) as admin:
        if not any(map(is_catalogue_topic, await partitions_by_topic(admin))):
            return Catalogue()
    async with CatalogueFollower(cluster) as reader:
        return reader.catalogue


def check_alone(sources: Sequence[Source], settings: Settings | None = None) -> None:
    """Raises Faulty: what is wrong whatever the catalogue holds, on this machine's disk and for its `settings` too."""
    found = [*faults_alone(sources, grammar_trial().compiles), *_of_files(sources)]
    if found := found or [*(egress_faults(settings, sources) if settings is not None else ())]:
        raise Faulty(found)


def check_together(sources: Sequence[Source], catalogue: Catalogue, settings: Settings | None = None) -> None:
    """Raises Faulty: what is wrong beside what the catalogue holds."""
    found = [*wrong_shapes(sources), *misfits(sources, catalogue, settings)]
    for source in sources:
        if (wrong := not_owned(source.manifest, catalogue)) is not None:
            place, why = wrong
            found.append(source.fault(why, place))
        if is_by_digest(source.manifest):
            found += _of_artefact(source, catalogue)
    if found := [*found, *faults_together(counted(sources, catalogue), catalogue)] or shadow_faults(sources, catalogue):
        raise Faulty(found)


@contextlib.contextmanager
def _placed(sources: Sequence[Source]) -> Iterator[None]:
    """A topic that is too wide is the fault of whoever asks for it."""
    try:
        yield
    except TooWide as refusal:
        for source in sources:
            if refusal.topic in {one.name for one in topics.wanted([source.manifest])}:
                raise Faulty([source.fault(refusal.message, ("partitions",), refusal.code)]) from None
        raise


def _of_files(sources: Sequence[Source]) -> Iterator[Fault]:
    for source in sources:
        if isinstance(source.manifest, Model):
            try:
                check_source(source.manifest.source, source.manifest.dtype)
            except Refusal as refusal:
                yield source.fault(refusal.message, ("source",), refusal.code)
        if isinstance(source.manifest, Endpoint):
            try:
                check_calibration(with_texts(source.path, source.manifest))
            except Refusal as refusal:
                yield source.fault(refusal.message, ("calibration",), refusal.code)
        if not is_by_digest(source.manifest):
            yield from _of_artefact(source, Catalogue())


def _of_artefact(source: Source, catalogue: Catalogue) -> Iterator[Fault]:
    try:
        _resolved(source, catalogue, lambda _namespace, _files: f"sha256:{'0' * 64}")
    except Refusal as refusal:
        yield source.fault(refusal.message, ("artefact",), refusal.code)


def _resolved(source: Source, catalogue: Catalogue, keep: Callable[[str, Contents], str]) -> Manifest:
    """keep: of a namespace and an artefact's files; returns the digest."""
    manifest = source.manifest
    keep_of_it = partial(keep, manifest.namespace)
    return resolved(source.path, manifest, keep_of_it, known_artefacts(manifest, catalogue))
