"""Making retrieval sets, from their documents to their versions in the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import require_right
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.lookup import split_name
from guideway.usecases.retrieval import a_qdrant, an_embedder, retrieval_settings

if TYPE_CHECKING:
    from guideway.training.sets.build import Splitting
    from guideway.training.sets.document import DocumentFields
    from guideway.training.sets.documents import Reading
    from guideway.training.sets.publish import Published
    from guideway.workers.retrieval.index import Qdrant
    from guideway.workers.retrieval.set_folder import Passage, SetFolder


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A set to be made."""

    namespace: str
    name: str
    documents: list[Path]
    columns: DocumentFields
    splitting: Splitting
    encoding: str = "utf-8"
    """Of files that do not declare their own."""
    skip_bad: bool = False
    """Pass over rows and files that cannot be read."""
    shared_with: list[str] | None = None
    """None: as the version before."""
    stage: bool = False
    adds: bool = False
    """To what is there, instead of replacing it."""


async def make_sets(
    settings: Settings,
    orders: Sequence[Order],
    progress: Callable[[int, int], None] = lambda done, of: None,
    should_end: Callable[[], bool] = lambda: False,
) -> list[Published]:
    """Read, split, embed, store, publish; in this order, so that nothing half-made is visible.

    progress: gets the passages that are embedded, and all. should_end: whether embedding is to end; what is embedded
    stays, and whoever makes the same sets again goes on with it.
    """
    from guideway.training.sets.progress import discard, locked

    for order in orders:
        _look(order)
    cluster = settings.answering_cluster()
    # Before anything that takes time.
    await require_right(cluster, {order.namespace for order in orders})
    read = [await asyncio.to_thread(_read, order) for order in orders]
    store, qdrant = ArtefactStore(settings.store), a_qdrant(settings)
    for namespace in {order.namespace for order in orders}:
        store.of(namespace).check_writable()
    maker = _Maker(settings, progress, should_end)
    await make_topics(cluster, topics.catalogues(order.namespace for order in orders), without_right=True)
    made = []
    async with CatalogueFollower(cluster) as reader:
        for order, (passages, reading) in zip(orders, read, strict=True):
            work = settings.unfinished_sets / order.namespace / order.name
            with locked(work):
                published = await _published(order, passages, maker, work, reader, cluster, store, qdrant)
                bad = [one.message for one in reading.bad]
                made.append(msgspec.structs.replace(published, left_out=reading.left_out, skipped=bad))
                discard(work)
    return made


async def switch_set(settings: Settings, set_name: str, version: int) -> int:
    """Have `NAMESPACE/NAME` stand for this version, at once; returns the one before.

    Raises Refusal(invalid_setting | guidance_unknown).
    """
    from guideway.training.sets.publish import switch

    namespace, name = split_name(set_name)
    cluster = settings.answering_cluster()
    async with CatalogueFollower(cluster) as reader:
        return await switch(reader, cluster, namespace, name, version)


async def _published(
    order: Order,
    passages: list[Passage],
    maker: _Maker,
    work: Path,
    reader: CatalogueFollower,
    cluster: Cluster,
    store: ArtefactStore,
    qdrant: Qdrant,
) -> Published:
    from guideway.training.sets.publish import previous, publish_set

    before = previous(reader.catalogue, order.namespace, order.name)
    there = store.of(order.namespace).checked(before.artefact, maker.settings.artefact_cache) if before else None
    folder = await asyncio.to_thread(_built, order, passages, there, maker, work)
    return await publish_set(
        reader,
        cluster,
        store,
        qdrant,
        folder,
        namespace=order.namespace,
        name=order.name,
        shared_with=(before.shared_with if before else []) if order.shared_with is None else order.shared_with,
        stage=order.stage,
    )


def _look(order: Order) -> None:
    """Raises Refusal where what is named is not there, or is nothing that can be read."""
    from guideway.training.sets.documents import Reading

    for _ in Reading(order.columns, encoding=order.encoding).files(order.documents):
        pass


def _read(order: Order) -> tuple[list[Passage], Reading]:
    from guideway.training.sets.build import passages_of
    from guideway.training.sets.documents import Reading

    reading = Reading(order.columns, encoding=order.encoding, skip_bad=order.skip_bad)
    return passages_of(reading.documents(order.documents), order.splitting), reading


class _Maker:
    """The embedding model, loaded when it is first needed."""

    def __init__(
        self, settings: Settings, progress: Callable[[int, int], None], should_end: Callable[[], bool]
    ) -> None:
        self.settings = settings
        self.progress = progress
        self.should_end = should_end
        self.embedder = cache(lambda: an_embedder(settings))

    def has_made(self, known: SetFolder, passages: list[Passage], splitting: Splitting) -> bool:
        """Whether the set is what would be made again."""
        from guideway.workers.retrieval.embedder import fingerprint_of

        same = known.passages == passages and (known.info.max_chars, known.info.overlap_chars) == (
            splitting.max_chars,
            splitting.overlap_chars,
        )
        source = retrieval_settings(self.settings).embedding
        return same and known.info.embedding.fingerprint == fingerprint_of(source, self.settings.model_cache)


def _built(order: Order, passages: list[Passage], there: Path | None, maker: _Maker, work: Path) -> Path:
    from guideway.training.sets.build import build, merged
    from guideway.workers.retrieval import set_folder

    known = set_folder.read(there) if there else None
    if order.adds:
        if known is None:
            raise Refusal(
                FailureCode.GUIDANCE_UNKNOWN, f"there is no set {order.namespace}/{order.name} to add to: create it"
            )
        passages = merged(known.passages, passages)
    if known is not None and there is not None and maker.has_made(known, passages, order.splitting):
        return there
    return build(
        passages,
        maker.embedder(),
        order.splitting,
        work,
        known=known,
        progress=maker.progress,
        should_end=maker.should_end,
    )
