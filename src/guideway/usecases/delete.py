"""Deletion from the catalogue: what endpoints or waiting requests still need is deleted only with `anyway`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from guideway.catalogue.changes import Deletion, catalogue_records, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.writing import publish_planned
from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.clients.unanswered import ENOUGH, unanswered
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.checks.references import broken_by
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import Router
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.groups import workers_group
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.schemas.names.topics import LANES, request_topic
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.usecases.lookup import found_in, found_set, split_name
from guideway.usecases.retrieval import a_qdrant

if TYPE_CHECKING:
    from guideway.training.sets.publish import Removal


async def delete_entry(settings: Settings, identity: Identity, version: str | None, *, anyway: bool) -> list[int]:
    """Remove an entry of the catalogue, or one version of it; returns the versions that are removed.

    anyway: even if endpoints need it. Raises Refusal: that of `found_in`; invalid_setting where it has no such version,
    and as `remove` does.
    """
    removed: list[int] = []

    def made_on(catalogue: Catalogue) -> list[Deletion]:
        there = sorted({*catalogue.versions(identity), *(one.version for one in catalogue.unread(identity))})
        if not there:
            found_in(catalogue, identity)
        if version is not None and version not in map(str, there):
            known = ", ".join(map(str, there))
            raise Refusal(FailureCode.INVALID_SETTING, f"{identity} has no version {version!r}, only {known}")
        removed[:] = there if version is None else [int(version)]
        unread = [number for number in removed if catalogue.get(identity, number) is None]
        if unread and not anyway:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"version {unread[0]} of {identity} cannot be read by this guideway, so it is not known who needs it: "
                "use the newer guideway that wrote it, or remove it with --anyway",
            )
        return plan_deletion(catalogue, identity, removed)

    await remove(settings.answering_cluster(), [identity.topic], made_on, anyway=anyway)
    return removed


async def delete_set(settings: Settings, name: str, *, anyway: bool) -> tuple[SetRef, Removal]:
    """Remove a retrieval set by `NAMESPACE/NAME`, or by `NAMESPACE/NAME@VERSION` one version of it, with its index.

    anyway: even if endpoints need it. Raises Refusal as `found_set`, `removal` and `remove` do.
    """
    from guideway.training.sets.publish import removal

    removals: list[tuple[SetRef, Removal]] = []

    def made_on(catalogue: Catalogue) -> list[Deletion]:
        ref, _ = found_set(catalogue, name)
        removals.append((ref, removal(catalogue, ref.namespace, ref.name, ref.version if "@" in name else None)))
        return removals[-1][1].deletions

    namespace, _ = split_name(name.partition("@")[0])
    await remove(settings.answering_cluster(), [catalogue_topic(namespace)], made_on, anyway=anyway)
    ref, removed = removals[-1]
    if settings.qdrant_url is not None:
        from guideway.workers.messages.to_retrieval import index_key

        qdrant = a_qdrant(settings)
        for digest in removed.unused_artefacts:
            qdrant.drop(index_key(ref.namespace, digest))
    return ref, removed


async def remove(
    cluster: Cluster,
    owners: Iterable[str],
    made_on: Callable[[Catalogue], Sequence[Deletion]],
    *,
    anyway: bool,
) -> None:
    """Have entries removed, and wait until that is to be seen. owners: the topics of the catalogue that they are in.

    Raises Refusal(invalid_setting) where endpoints, routers or shadows need them, unless `anyway`.
    """
    # Imported late: most commands need none of it.
    from guideway.usecases.shadows.checks import shadows_broken_by

    async def planned(catalogue: Catalogue) -> Sequence[Deletion]:
        deletions = made_on(catalogue)
        if not anyway and (broken := broken_by(deletions, catalogue)):
            needing = _listed([_named(one) for one, _ in broken])
            what = "endpoint" if all(isinstance(one, Endpoint) for one, _ in broken) else "manifest"
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{len(broken)} {what}{'s need it' if len(broken) > 1 else ' needs it'}: {needing} (without it, "
                f"{broken[0][1]}): change or delete them first, or use --anyway, and their events are refused from "
                "then on",
            )
        if not anyway and (ended := shadows_broken_by(deletions, catalogue)):
            whose = _listed([f"that of {address}" for address, _ in ended])
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{len(ended)} shadow{'s need it' if len(ended) > 1 else ' needs it'}, unless it is over: {whose} "
                f"(without it, {ended[0][1]}): change `shadow` there or leave it out first, or use --anyway, and it "
                "ends",
            )
        if not anyway:
            for size in _models_that_go(deletions, catalogue):
                await _require_answered(cluster, size)
        return deletions

    await publish_planned(cluster, owners, planned)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def _named(one: Endpoint | Router) -> str:
    return one.address if isinstance(one, Endpoint) else f"the router of {one.namespace}"


def _models_that_go(deletions: Sequence[Deletion], catalogue: Catalogue) -> list[str]:
    after = catalogue.after(catalogue_records(deletions))
    return [one.name for one in {each.identity for each in deletions} if one.kind == "model" and not after.latest(one)]


async def _require_answered(cluster: Cluster, size: str) -> None:
    """Raises Refusal(invalid_setting) where requests wait for a model: no worker could be started for them any more."""
    async with administrator(cluster) as admin:
        there = await partitions_by_topic(admin)
    lanes = {topic: len(there[topic]) for lane in LANES if (topic := request_topic(size, lane)) in there}
    if count := await unanswered(cluster, workers_group(size), lanes):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{count}{' or more' if count >= ENOUGH else ''} request{'s wait' if count > 1 else ' waits'} for model "
            f"size {size}: let its workers answer first, or use --anyway; then what no running worker answers waits "
            "until a model of this name is applied again",
        )
