"""Whether trials can be applied: said before rows are drawn, and before anything is applied or sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue
from guideway.infra.rights.hidden import hidden
from guideway.producers.checks.references import owners_named
from guideway.schemas.manifests import Endpoint
from guideway.settings import Settings
from guideway.usecases.apply import check_alone, check_together


async def require_appliable(settings: Settings, trials: Sequence[Endpoint], catalogue: Catalogue) -> None:
    """Raises Faulty, as `apply_made` does of the same trials."""
    sources = [Source(Path(), one) for one in trials]
    check_alone(sources)
    if named := {owner for one in trials for owner in owners_named(one)}:
        catalogue.hidden = await hidden(settings.answering_cluster(), named)
    check_together(sources, catalogue, settings)
