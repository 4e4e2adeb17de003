"""Deletion from the catalogue: what endpoints or waiting requests still need is deleted only with `anyway`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guideway.catalogue.changes import Deletion, catalogue_records, plan_deletion, require_newest_read
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import publish_planned
from guideway.delivery.clients.unanswered import ENOUGH, unanswered
from guideway.infra import topics
from guideway.infra.cluster import administrator
from guideway.producers.checks.references import broken_by
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.usecases.lookup import found_in, found_set
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
        if version is None:
            require_newest_read(catalogue, identity)
        elif version not in map(str, there):
            known = ", ".join(map(str, there))
            raise Refusal(FailureCode.INVALID_SETTING, f"{identity} has no version {version!r}, only {known}")
        removed[:] = there if version is None else [int(version)]
        return plan_deletion(catalogue, identity, removed)

    await remove(settings.answering_brokers(), made_on, anyway=anyway)
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

    await remove(settings.answering_brokers(), made_on, anyway=anyway)
    ref, removed = removals[-1]
    if settings.qdrant_url is not None:
        qdrant = a_qdrant(settings)
        for digest in removed.unused_artefacts:
            qdrant.drop(digest)
    return ref, removed


async def remove(bootstrap: str, made_on: Callable[[Catalogue], Sequence[Deletion]], *, anyway: bool) -> None:
    """Have entries removed, and wait until that is to be seen.

    Raises Refusal(invalid_setting) where endpoints need them, unless `anyway`.
    """

    async def planned(catalogue: Catalogue) -> Sequence[Deletion]:
        deletions = made_on(catalogue)
        if not anyway and (broken := broken_by(deletions, catalogue)):
            needing = ", ".join(endpoint.address for endpoint, _ in broken[:10]) + (", …" if len(broken) > 10 else "")
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{len(broken)} endpoint{'s need it' if len(broken) > 1 else ' needs it'}: {needing} (without it, "
                f"{broken[0][1]}): change or delete them first, or use --anyway, and their events are refused from "
                "then on",
            )
        if not anyway:
            for size in _models_that_go(deletions, catalogue):
                await _require_answered(bootstrap, size)
        return deletions

    await publish_planned(bootstrap, planned)


def _models_that_go(deletions: Sequence[Deletion], catalogue: Catalogue) -> list[str]:
    after = catalogue.after(catalogue_records(deletions))
    return [one.name for one in {each.identity for each in deletions} if one.kind == "model" and not after.latest(one)]


async def _require_answered(bootstrap: str, size: str) -> None:
    """Raises Refusal(invalid_setting) where requests wait for a model: no worker could be started for them any more."""
    async with administrator(bootstrap) as admin:
        there = await topics.partitions_by_topic(admin)
    lanes = {topic: len(there[topic]) for lane in names.LANES if (topic := names.request_topic(size, lane)) in there}
    if count := await unanswered(bootstrap, names.workers_group(size), lanes):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{count}{' or more' if count >= ENOUGH else ''} request{'s wait' if count > 1 else ' waits'} for model "
            f"size {size}: let its workers answer first, or use --anyway; then what no running worker answers waits "
            "until a model of this name is applied again",
        )
