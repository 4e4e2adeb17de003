"""Waiting lookups → passages. All queries are embedded in one batch, and searched in one batch for each set."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog
from cachetools import LRUCache

from guideway.catalogue.artefacts.contents import Altered
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.retrieval import Condition
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_retrieval import Embedded, Found, FoundPassage
from guideway.workers.messages.to_retrieval import Embed, Lookup
from guideway.workers.retrieval.embedder import Embedder, Vectors
from guideway.workers.retrieval.index import Hit, Index
from guideway.workers.retrieval.indexes import Indexes
from guideway.workers.retrieval.selection import CANDIDATES, choose, why_none

A = TypeVar("A")
B = TypeVar("B")
log = structlog.get_logger()

_OBJECTS_BYTES: Final = 250
"""About the size of the Python objects around a hit or a search."""


class _Search(msgspec.Struct, frozen=True):
    """One query in one version of a set. Its result is kept under this key."""

    digest: str
    query: str
    filter: bytes
    """In JSON, because 1 and true differ there; in Python they are equal."""
    limit: int
    vectors: bool


class _Kept(NamedTuple):
    hits: list[Hit]
    bytes: int
    """Memory of the hits and of their search."""


class Lookups:
    """Owns the lookups that wait, and the results that are kept."""

    def __init__(
        self, embedder: Embedder, indexes: Indexes, tokens_of: Callable[[str], int], *, kept_bytes: int
    ) -> None:
        """tokens_of: tokens that a passage takes from a budget. kept_bytes: memory for results."""
        self._embedder = embedder
        self._indexes = indexes
        self._tokens_of = tokens_of
        self._waiting: list[Lookup] = []
        self._kept: LRUCache[_Search, _Kept] = LRUCache(kept_bytes, getsizeof=lambda kept: kept.bytes)

    def add(self, lookup: Lookup) -> None:
        self._waiting.append(lookup)

    def embedded(self, some: Sequence[Embed]) -> list[Embedded | Refused]:
        """The vectors that are asked for, all in one batch. Each question fails alone."""
        texts = [text for one in some for text in one.texts]
        embedded = iter(_each(texts, self._embedder.embed))
        answers: list[Embedded | Refused] = []
        for one in some:
            with self._refusing(one.id, answers):
                found = [next(embedded) for _ in one.texts]
                if why := next((vector for vector in found if isinstance(vector, Refusal)), None):
                    raise why
                rows = [vector for vector in found if not isinstance(vector, Refusal)]
                data = b"".join(vector.astype("<f4").tobytes() for vector in rows)
                answers.append(Embedded(id=one.id, dimension=len(rows[0]) if rows else 0, vectors=data))
        return answers

    def answer(self) -> list[Found | Refused]:
        """Answers to all lookups whose indexes are open. The others go on waiting. Each lookup fails alone."""
        answers: list[Found | Refused] = []
        ready: list[Lookup] = []
        indexes: dict[str, Index] = {}
        for lookup in self._waiting:
            with self._refusing(lookup.id, answers):
                self._check(lookup)
                opened = {artefact.key: self._indexes.get(artefact) for artefact in lookup.artefacts}
                if None not in opened.values():
                    ready.append(lookup)
                    indexes |= {digest: index for digest, index in opened.items() if index is not None}
        done = {lookup.id for lookup in ready} | {one.id for one in answers}
        self._waiting = [lookup for lookup in self._waiting if lookup.id not in done]
        results = self._search(ready, indexes)
        for lookup in ready:
            with self._refusing(lookup.id, answers):
                answers.append(self._chosen(lookup, results))
        # Indexes of waiting lookups stay open. Else two indexes above the budget would never be open together.
        waited_for = {artefact.key for lookup in self._waiting for artefact in lookup.artefacts}
        self._indexes.trim(indexes.keys() | waited_for)
        return answers

    def _check(self, lookup: Lookup) -> None:
        for artefact in lookup.artefacts:
            if artefact.fingerprint != self._embedder.fingerprint:
                raise Refusal(
                    FailureCode.SET_WRONG_EMBEDDING,
                    f"retrieval set {artefact.name} was embedded with model {artefact.fingerprint[:19]}…, this worker "
                    f"uses {self._embedder.fingerprint[:19]}…: create the set with this one, or set GUIDEWAY_EMBEDDING",
                )

    def _search(self, ready: Sequence[Lookup], indexes: dict[str, Index]) -> dict[_Search, list[Hit] | Refusal]:
        """The hits of each search of the lookups, or the Refusal of a search that failed."""
        filters = {search: lookup.wanted.filter for lookup in ready for search in _searches(lookup)}
        # In a dictionary of its own, because more searches may wait than are kept.
        results: dict[_Search, list[Hit] | Refusal] = {
            search: self._kept[search].hits for search in filters if search in self._kept
        }
        missing = [search for search in filters if search not in results]
        if not missing:
            return results
        queries = list(dict.fromkeys(search.query for search in missing))
        embedded = dict(zip(queries, _each(queries, self._embedder.embed), strict=True))
        vectors = {query: one for query, one in embedded.items() if not isinstance(one, Refusal)}
        results |= {search: why for search in missing if isinstance(why := embedded[search.query], Refusal)}
        for digest, with_vectors in {(search.digest, search.vectors) for search in missing}:
            searches = [
                one for one in missing if (one.digest, one.vectors) == (digest, with_vectors) and one not in results
            ]
            find = partial(_find, indexes[digest], vectors, filters)
            for search, found in zip(searches, _each(searches, find), strict=True):
                results[search] = found
                if not isinstance(found, Refusal):
                    self._keep(search, found)
                elif found.code is FailureCode.RETRIEVAL_FAILED:
                    # The server may have lost it.
                    self._indexes.drop(digest)
        return results

    def _keep(self, search: _Search, hits: list[Hit]) -> None:
        kept = _Kept(hits, _bytes_of(search, hits))
        if kept.bytes <= self._kept.maxsize:
            self._kept[search] = kept

    def _chosen(self, lookup: Lookup, results: dict[_Search, list[Hit] | Refusal]) -> Found:
        found: list[list[Hit]] = []
        for search in _searches(lookup):
            result = results[search]
            if isinstance(result, Refusal):
                raise result
            found.append(result)
        chosen = choose(lookup.wanted, found, self._tokens_of)
        if not chosen and lookup.wanted.if_none == "refuse":
            sets = ", ".join(map(str, lookup.wanted.sets))
            raise Refusal(FailureCode.NO_PASSAGE, f"no passage of {sets} {why_none(lookup.wanted, found)}")
        return Found(
            id=lookup.id,
            passages=[
                FoundPassage(set=one.set, id=one.hit.id, text=one.hit.text, score=round(one.hit.score, 4))
                for one in chosen
            ],
        )

    @contextlib.contextmanager
    def _refusing(self, id_: str, answers: list[Any]) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            altered = refusal.digest if isinstance(refusal, Altered) else ""
            answers.append(Refused(id=id_, code=refusal.code, message=refusal.message, altered=altered))
        except Exception as error:
            unexpected = _unexpected(error)
            answers.append(Refused(id=id_, code=unexpected.code, message=unexpected.message))


def _searches(lookup: Lookup) -> list[_Search]:
    wanted = lookup.wanted
    filter_ = msgspec.json.encode(wanted.filter)
    return [
        _Search(artefact.key, wanted.query, filter_, wanted.passages * CANDIDATES, wanted.diversity > 0)
        for artefact in lookup.artefacts
    ]


def _bytes_of(search: _Search, hits: Sequence[Hit]) -> int:
    vectors = sum(hit.vector.nbytes for hit in hits if hit.vector is not None)
    texts = [search.query, *(hit.text for hit in hits), *(hit.id for hit in hits)]
    return _OBJECTS_BYTES * (1 + len(hits)) + len(search.filter) + vectors + sum(sys.getsizeof(text) for text in texts)


def _find(
    index: Index,
    vectors: Mapping[str, Vectors],
    filters: Mapping[_Search, Sequence[Condition]],
    searches: Sequence[_Search],
) -> list[list[Hit]]:
    return index.search(
        [vectors[search.query] for search in searches],
        [filters[search] for search in searches],
        # Each search has its own limit: its result is kept, and must not depend on the searches beside it.
        [search.limit for search in searches],
        vectors=searches[0].vectors,
    )


def _each(items: Sequence[A], do: Callable[[Sequence[A]], Iterable[B]]) -> list[B | Refusal]:
    """Do all items in one batch. If that fails unexpectedly, do them one by one, and refuse only those that fail.

    A Refusal concerns the set or its server; so all items get it.
    """
    if not items:
        return []
    try:
        return [*do(items)]
    except Refusal as refusal:
        return [refusal] * len(items)
    except Exception as error:
        unexpected = _unexpected(error)
    return [unexpected] if len(items) == 1 else [one for item in items for one in _each([item], do)]


def _unexpected(error: Exception) -> Refusal:
    # The log says where it happened. It omits the message, because that may quote the text.
    log.error("lookup failed", error=type(error).__name__, at=traceback.format_tb(error.__traceback__))
    return our_fault(error, "the retrieval process")
