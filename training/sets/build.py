"""Documents → the folder of a retrieval set: split, without doubles, embedded in batches. It can be resumed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import EmbeddingModel
from guideway.schemas.retrieval import Metadata, Scalar
from guideway.training.runs.interruption import Interrupted, ShouldEnd, never
from guideway.training.sets.document import Document
from guideway.training.sets.progress import Unfinished
from guideway.training.sets.split import sections, split
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder, Vectors
from guideway.workers.retrieval.set_folder import Passage, SetFolder, SetInfo

_TEXTS_AT_ONCE: Final = 512
"""So many texts are sorted by length and embedded together."""
_KEEP_EVERY_S: Final = 5.0
"""Seconds of work that a killed process loses at most."""
_PLACE: Final = ("source", "page", "section")
"""Metadata with the place of a passage."""


class Splitting(msgspec.Struct, frozen=True, kw_only=True):
    """How documents become passages."""

    max_chars: int = 800
    """About 200 tokens. If a passage is longer than the embedding model's input, only its beginning is embedded."""
    overlap_chars: int = 120

    def __post_init__(self) -> None:
        if not (self.max_chars >= 20 and 0 <= self.overlap_chars <= self.max_chars // 2):
            raise Refusal(
                FailureCode.INVALID_SETTING,
                "passages have at least 20 characters, and at most half of them overlap: change one of the two",
            )


def passages_of(documents: Iterable[Document], splitting: Splitting) -> list[Passage]:
    """The passages in the order of the documents. Of passages with the same text and metadata the first is kept.

    Their places (`source`, `page`, `section`) may differ: the kept passage gets the places of all. A passage of
    Markdown or HTML begins with the headings above it, and has them as metadata `section`.
    """
    kept: dict[bytes, Passage] = {}
    for document in documents:
        for passage in _split(document, splitting):
            what = _what(passage)
            kept[what] = _joined(kept[what], passage) if what in kept else passage
    return list(kept.values())


def merged(old: Sequence[Passage], new: Sequence[Passage]) -> list[Passage]:
    """The old passages without those of documents that are in `new`, followed by the new passages."""
    replaced = {passage.document for passage in new}
    whats = {_what(passage) for passage in new}
    return [one for one in old if one.document not in replaced and _what(one) not in whats] + [*new]


def _what(passage: Passage) -> bytes:
    """The content of a passage: the same for two passages that differ only in their place."""
    told = {key: value for key, value in passage.metadata.items() if key not in _PLACE}
    return hashlib.sha256(msgspec.json.encode((passage.text, sorted(told.items())))).digest()


def _joined(first: Passage, again: Passage) -> Passage:
    places: Metadata = {}
    for key in _PLACE:
        values = [*_values(first.metadata.get(key)), *_values(again.metadata.get(key))]
        if values:
            distinct = list(dict.fromkeys(values))
            places[key] = distinct if len(distinct) > 1 else distinct[0]
    return msgspec.structs.replace(first, metadata=first.metadata | places)


def _values(value: Scalar | float | list[Scalar] | None) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def build(
    passages: Sequence[Passage],
    embedder: Embedder,
    splitting: Splitting,
    work: Path,
    *,
    known: SetFolder | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    should_end: ShouldEnd = never,
) -> Path:
    """Embed what is not embedded yet. Returns the folder of the whole set, below `work`.

    Known vectors come from `known`, an existing version of the set, and from what an interrupted call left in `work`.

    Raises: Refusal(document_empty) without a passage; Interrupted about a second after `should_end`, and then all
    vectors so far are kept.
    """
    if not passages:
        raise Refusal(FailureCode.DOCUMENT_EMPTY, "there is no passage: give documents with text")
    unfinished = Unfinished(work / "vectors", embedder.fingerprint)
    texts = [passage.text for passage in passages]
    vectors = _known_vectors(known, embedder)
    missing = [text for text in texts if text not in vectors and text not in unfinished]
    progress(len(texts) - len(missing), len(texts))
    done = len(texts) - len(missing)
    for at in range(0, len(missing), _TEXTS_AT_ONCE):
        some = missing[at : at + _TEXTS_AT_ONCE]
        for embedded, vectors_of in _embedded(some, embedder, should_end):
            unfinished.keep(embedded, vectors_of)
            done += len(embedded)
            progress(done, len(texts))
        if should_end():
            raise Interrupted
    info = SetInfo(
        embedding=EmbeddingModel(
            source=embedder.source, fingerprint=embedder.fingerprint, dimension=embedder.dimension
        ),
        passages=len(passages),
        documents=len({passage.document for passage in passages}),
        max_chars=splitting.max_chars,
        overlap_chars=splitting.overlap_chars,
    )
    rows = [vectors[text] if text in vectors else unfinished[text] for text in texts]
    set_folder.write(work / "set", info, passages, np.stack(rows))
    return work / "set"


def _embedded(texts: Sequence[str], embedder: Embedder, should_end: ShouldEnd) -> Iterator[tuple[list[str], Vectors]]:
    """(texts, their vectors), in parts that are kept together, until `should_end`."""
    waiting: list[tuple[list[int], Vectors]] = []
    began = time.monotonic()
    for batch in embedder.batches(texts):
        waiting.append(batch)
        if should_end() or time.monotonic() - began >= _KEEP_EVERY_S:
            yield _together(texts, waiting)
            waiting, began = [], time.monotonic()
        if should_end():
            return
    if waiting:
        yield _together(texts, waiting)


def _together(texts: Sequence[str], batches: Sequence[tuple[list[int], Vectors]]) -> tuple[list[str], Vectors]:
    places = [place for some, _ in batches for place in some]
    return [texts[place] for place in places], np.concatenate([vectors for _, vectors in batches])


def _known_vectors(known: SetFolder | None, embedder: Embedder) -> Mapping[str, Vectors]:
    if known is None or known.info.embedding.fingerprint != embedder.fingerprint:
        return {}
    return {passage.text: vector for passage, vector in zip(known.passages, known.vectors, strict=True)}


def _split(document: Document, splitting: Splitting) -> list[Passage]:
    parts = sections(document.text) if document.markdown else [("", document.text)]
    found: list[tuple[str, str]] = []
    for heading, body in parts:
        # Headings take at most half of a passage.
        head = f"{heading[: splitting.max_chars // 2]}\n\n" if heading else ""
        pieces = split(body, max_chars=splitting.max_chars - len(head), overlap_chars=splitting.overlap_chars)
        found += [(heading, head + piece) for piece in pieces]
    return [
        Passage(
            id=document.id if number == 1 else f"{document.id}#{number}",
            document=document.id,
            text=text,
            metadata={**document.metadata, "section": heading} if heading else document.metadata,
        )
        for number, (heading, text) in enumerate(found, 1)
    ]
