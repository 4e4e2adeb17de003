"""What there is to say of manifests that are applied, though nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guideway.catalogue.documents.manifest_files import Source, counted
from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.beside import beside
from guideway.producers.checks.references import owners_named
from guideway.schemas.kinds.router import Router
from guideway.settings import Settings
from guideway.usecases.models.misfits import misfits_there
from guideway.usecases.retrieval import embedding_missing
from guideway.usecases.shadows.checks import shadow_notes
from guideway.usecases.targets.webhooks import unlisted


def remarks(settings: Settings, sources: Sequence[Source], catalogue: Catalogue) -> list[str]:
    """In lines. catalogue: as it is without these manifests."""
    return [
        *_unseen(sources, catalogue),
        *_unembedded(settings, sources),
        *unlisted(settings, sources),
        *beside(counted(sources, catalogue), catalogue),
        *misfits_there(sources, catalogue, settings),
        *shadow_notes(sources, catalogue),
    ]


def _unseen(sources: Sequence[Source], catalogue: Catalogue) -> Iterator[str]:
    for source in sources:
        for owner, named in owners_named(source.manifest).items():
            if owner in catalogue.hidden:
                yield (
                    f"{Identity.of(source.manifest)} names {', '.join(named)}, and namespace {owner} is hidden from "
                    "this user: the services check whether it is there and shared"
                )


def _unembedded(settings: Settings, sources: Sequence[Source]) -> Iterator[str]:
    missing = embedding_missing(settings)
    for source in sources if missing else ():
        if isinstance(source.manifest, Router) and source.manifest.examples is not None:
            yield (
                f"{Identity.of(source.manifest)} has examples, and the embedding model {missing} is not on this "
                f"machine: workers of size {source.manifest.model_size} need it, or its events are refused with "
                "set_wrong_embedding"
            )
