"""The archive that a task names: whether the task may read it, and how its rows came about."""

from __future__ import annotations

from collections.abc import Mapping

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.calibration import around_only_field
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.settings import Settings
from guideway.training.data.archived import Version, foreign_archive
from guideway.training.runs.archived_run import ArchiveAtHand
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows
from guideway.usecases.lookup import catalogue_of
from guideway.usecases.targets import archives


async def archive_of(settings: Settings, task: Task) -> tuple[ArchiveAtHand, Catalogue]:
    """The archive that a task names, and the catalogue that says how its rows came about. No row is read yet.

    Raises Refusal: `not_allowed` for the archive of another namespace; as `catalogue_of` does.
    """
    wanted = task.data.archived
    assert wanted is not None, "its rows are archived"
    if (refusal := foreign_archive(task)) is not None:
        raise refusal
    catalogue = await catalogue_of(settings)
    return at_hand(settings, wanted, catalogue), catalogue


def at_hand(settings: Settings, wanted: ArchivedRows, catalogue: Catalogue) -> ArchiveAtHand:
    """An archive, to be read when it is asked."""
    return ArchiveAtHand(
        rows=lambda since, until: archives.rows(settings, wanted.endpoint, since, until),
        days=lambda: archives.days_of(settings, wanted.endpoint),
        versions=lambda: _versions(_endpoints(wanted, catalogue)),
        is_kept=lambda: _endpoints(wanted, catalogue)[-1][1].archived is not None,
    )


def _endpoints(wanted: ArchivedRows, catalogue: Catalogue) -> list[tuple[int, Endpoint]]:
    """The endpoint's versions that the catalogue has, the newest last. Raises Refusal(unknown_endpoint)."""
    identity = Identity("endpoint", wanted.namespace, wanted.name)
    found = [(number, catalogue.get(identity, number)) for number in catalogue.versions(identity)]
    endpoints = [(number, one) for number, one in found if isinstance(one, Endpoint)]
    if not endpoints:
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT,
            f"the catalogue has no endpoint {wanted.endpoint}, and nothing else says how the texts of its archive came "
            f"about: apply it again, correct data.archive, or train on a file of `guideway archive export "
            f"{wanted.endpoint} --examples`",
        )
    return sorted(endpoints, key=lambda one: one[0])


def _versions(endpoints: list[tuple[int, Endpoint]]) -> Mapping[int, Version]:
    return {
        number: Version(one.input.template, around_only_field(one), one.output, guidance=len(one.guidance))
        for number, one in endpoints
    }
