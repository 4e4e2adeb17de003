"""The passages that a task's rows have, as the commands of the studio look them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.cli.console.output import importing
from guideway.cli.sets.making import a_qdrant, an_embedder
from guideway.schemas.manifests import RetrievalSet
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.training.runs.task import Task

if TYPE_CHECKING:
    from guideway.training.sets.context import RetrievalContext
    from guideway.training.sets.evaluate import Searched


def retrieval_context(
    task: Task, catalogue: Catalogue | None, settings: Settings, *, began_with: Sequence[SetRef] = ()
) -> RetrievalContext | None:
    """What the task's rule finds; None where it has none. began_with: the sets of a run that goes on.

    Raises: Refusal of a set that is not there, not shared, or embedded with another model.
    """
    if task.retrieval is None:
        return None
    assert catalogue is not None, "where it is needed and not there, that is refused"
    with importing("studio"):
        from guideway.training.sets.context import context_of
        from guideway.training.sets.evaluate import Searched

    store, qdrant, embedder = ArtefactStore(settings.store), a_qdrant(settings), an_embedder(settings)

    def open_set(manifest: RetrievalSet, ref: SetRef) -> Searched:
        return Searched.of(manifest, str(ref), store, settings.artefact_cache, embedder, qdrant)

    return context_of(task.retrieval, began_with, catalogue, task.namespace, open_set)
