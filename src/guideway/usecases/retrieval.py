"""What searches retrieval sets here: the embedding model, the indexes, and the passages that a task's rows have."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.training.runs.task import Task
from guideway.usecases.extras import importing

if TYPE_CHECKING:
    from guideway.training.sets.context import RetrievalContext
    from guideway.training.sets.evaluate import Searched
    from guideway.workers.retrieval.embedder import Embedder
    from guideway.workers.retrieval.index import Qdrant
    from guideway.workers.retrieval.settings import RetrievalSettings


def retrieval_settings(settings: Settings) -> RetrievalSettings:
    """What the environment says of retrieval."""
    from guideway.workers.retrieval.settings import DEFAULT_EMBEDDING, RetrievalSettings

    return RetrievalSettings(
        embedding=settings.embedding or DEFAULT_EMBEDDING,
        qdrant_url=settings.qdrant_url,
        qdrant_api_key=settings.qdrant_api_key,
    )


def embedding_missing(settings: Settings) -> str | None:
    """The embedding model that the settings name, if it is a package or folder that this machine does not have."""
    source = retrieval_settings(settings).embedding
    package, _, _ = source.removeprefix("package:").partition("/")
    if source.startswith("package:"):
        return source if importlib.util.find_spec(package) is None else None
    is_folder = source.startswith((".", "/", "~"))
    return source if is_folder and not Path(source).expanduser().is_dir() else None


def an_embedder(settings: Settings) -> Embedder:
    """The embedding model that sets are made and searched with here. Raises Refusal(set_wrong_embedding)."""
    with importing("studio"):
        from guideway.workers.retrieval.embedder import Embedder

    return Embedder(retrieval_settings(settings).embedding, settings.model_cache)


def a_qdrant(settings: Settings) -> Qdrant:
    """Where indexes are."""
    from guideway.workers.retrieval.index import Qdrant

    return Qdrant(settings.qdrant_url, settings.qdrant_api_key)


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
        from guideway.training.sets.context import retrieval_context
        from guideway.training.sets.evaluate import Searched

    store, qdrant, embedder = ArtefactStore(settings.store), a_qdrant(settings), an_embedder(settings)

    def open_set(manifest: RetrievalSet, ref: SetRef) -> Searched:
        return Searched.of(manifest, str(ref), store, settings.artefact_cache, embedder, qdrant)

    return retrieval_context(task.retrieval, began_with, catalogue, task.namespace, open_set)
